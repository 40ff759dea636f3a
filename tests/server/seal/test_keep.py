"""Moving and deleting are separate: `keep`, and the tombstones that deletions leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images import digest_of, error_of, image, index, meaning, push, push_parts, put
from tests.serving import FLOATING, Clock, Rule, serving

FIRST, SECOND = image("first"), image("second")
NOON = 1_700_000_000_000_000
DELETABLE: list[Rule] = [{"mode": "sealed", "keep": "deletable"}]
A_YEAR: list[Rule] = [{"mode": "sealed", "keep": "365d"}]
TAG = "/v2/shop/app/manifests/1.4.2"


async def test_a_deletable_tag_is_sealed(data: Path) -> None:
    """A tag with `keep = "deletable"` is sealed: other content is refused."""
    async with serving(data, DELETABLE) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        refused = await push(registry.client, "shop/app", "1.4.2", SECOND)

    assert refused.status_code == 409


@pytest.mark.parametrize("reference", ["1.4.2", FIRST.digest], ids=["tag", "digest"])
async def test_a_deleted_sealed_tag_returns_only_with_its_digest(data: Path, reference: str) -> None:
    """A deleted sealed tag accepts only its former digest, and is then sealed again."""
    async with serving(data, DELETABLE) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", FIRST)
        deleted = await client.delete(f"/v2/shop/app/manifests/{reference}")
        gone = await meaning(client, "shop/app", "1.4.2")
        refused = await push(client, "shop/app", "1.4.2", SECOND)
        still_gone = await meaning(client, "shop/app", "1.4.2")
        returned = await push(client, "shop/app", "1.4.2", FIRST)
        refused_again = await push(client, "shop/app", "1.4.2", SECOND)

        assert deleted.status_code == 202
        assert gone is None
        assert refused.status_code == 409
        assert error_of(refused)[0] == "DENIED"
        assert still_gone is None
        assert returned.status_code == 201
        assert refused_again.status_code == 409
        assert await meaning(client, "shop/app", "1.4.2") == FIRST.digest


async def test_a_tombstone_accepts_the_digest_of_the_other_algorithm(data: Path) -> None:
    """A tombstone accepts its bytes under the sha512 digest, and no other bytes."""
    async with serving(data, DELETABLE) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", FIRST)
        await client.delete(TAG)
        await push_parts(client, "shop/app", SECOND)
        refused = await put(client, "shop/app", digest_of(SECOND.raw, "sha512"), SECOND, tags=["1.4.2"])
        returned = await put(client, "shop/app", digest_of(FIRST.raw, "sha512"), FIRST, tags=["1.4.2"])

    assert refused.status_code == 409
    assert returned.status_code == 201


async def test_a_tombstone_is_kept_after_a_restart_under_other_rules(data: Path) -> None:
    """A tombstone is unchanged after a restart with rules that make the tag mutable."""
    async with serving(data, DELETABLE) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        await registry.client.delete(f"/v2/shop/app/manifests/{FIRST.digest}")
    async with serving(data, FLOATING) as registry:
        refused = await push(registry.client, "shop/app", "1.4.2", SECOND)
        returned = await push(registry.client, "shop/app", "1.4.2", FIRST)
        refused_again = await push(registry.client, "shop/app", "1.4.2", SECOND)

    assert refused.status_code == 409
    assert returned.status_code == 201
    assert refused_again.status_code == 409


async def test_a_tombstone_counts_as_absent_for_conditions(data: Path) -> None:
    """A tombstone counts as absent for `If-None-Match: *`, and still accepts only its former digest."""
    async with serving(data, DELETABLE) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", FIRST)
        await client.delete(TAG)
        refused = await push(client, "shop/app", "1.4.2", SECOND, headers={"If-None-Match": "*"})
        matched = await put(client, "shop/app", "1.4.2", FIRST, headers={"If-Match": f'"{FIRST.digest}"'})
        returned = await put(client, "shop/app", "1.4.2", FIRST, headers={"If-None-Match": "*"})

    assert refused.status_code == 409
    assert matched.status_code == 412
    assert returned.status_code == 201


async def test_deletion_and_return_are_recorded(data: Path) -> None:
    """Deletion and return of a sealed tag are ledger entries, in order."""
    async with serving(data, DELETABLE) as registry:
        client = registry.client
        first = await push(client, "shop/app", "1.4.2", FIRST)
        await client.delete(TAG)
        returned = await push(client, "shop/app", "1.4.2", FIRST)

    assert int(returned.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 2


async def test_deleting_by_digest_leaves_a_tombstone_for_each_tag(data: Path) -> None:
    """Deleting a manifest by digest leaves a tombstone for each of its sealed tags."""
    async with serving(data, DELETABLE) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", FIRST)
        await put(client, "shop/app", "1.4", FIRST)
        await client.delete(f"/v2/shop/app/manifests/{FIRST.digest}")
        answers = [await push(client, "shop/app", tag, SECOND) for tag in ("1.4.2", "1.4")]

    assert [answer.status_code for answer in answers] == [409, 409]


async def test_a_sealed_tag_without_keep_is_kept_for_ever(data: Path) -> None:
    """Without `keep`, a delete is refused even a century later."""
    clock = Clock(NOON)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        clock.advance(days=36_500)
        answer = await registry.client.delete(TAG)

    assert answer.status_code == 405


async def test_a_tag_kept_for_a_year(data: Path) -> None:
    """With `keep = "365d"` a delete is refused until the last second, and accepted from then on, with a tombstone."""
    clock = Clock(NOON)
    async with serving(data, A_YEAR, clock=clock) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", FIRST)
        clock.advance(days=364, hours=23, seconds=3599)
        early = await client.delete(TAG)
        early_by_digest = await client.delete(f"/v2/shop/app/manifests/{FIRST.digest}")
        early_blob = await client.delete(f"/v2/shop/app/blobs/{FIRST.config.digest}")
        clock.advance(seconds=1)
        late = await client.delete(TAG)
        late_blob = await client.delete(f"/v2/shop/app/blobs/{FIRST.config.digest}")
        refused = await push(client, "shop/app", "1.4.2", SECOND)

    assert early.status_code == 405
    assert early_by_digest.status_code == 405
    assert early_blob.status_code == 405
    assert "365 days" in error_of(early)[1]
    assert late.status_code == 202
    assert late_blob.status_code == 202
    assert refused.status_code == 409


async def test_the_year_is_the_one_in_force_at_the_push(data: Path) -> None:
    """The `keep` at the time of the push counts, and later rules do not shorten it."""
    clock = Clock(NOON)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
    async with serving(data, DELETABLE, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        answer = await registry.client.delete(TAG)

    assert answer.status_code == 405


async def test_one_kept_tag_is_enough(data: Path) -> None:
    """Content is kept as long as any seal covers it, here an index that is kept for ever."""
    rules: list[Rule] = [{"tag": "rc*", "mode": "sealed", "keep": "deletable"}]
    async with serving(data, rules) as registry:
        client = registry.client
        await push(client, "shop/app", "rc1", FIRST)
        await push(client, "shop/app", "1.4.2", index(FIRST))
        tag = await client.delete("/v2/shop/app/manifests/rc1")
        manifest = await client.delete(f"/v2/shop/app/manifests/{FIRST.digest}")

    assert tag.status_code == 202
    assert manifest.status_code == 405
