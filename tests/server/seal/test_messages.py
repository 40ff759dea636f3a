"""The complete message of each refusal by a seal, since clients show nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.images import error_of, image, index, push, put, signature, signature_tag
from tests.serving import Clock, Rule, serving

FIRST, SECOND = image("first"), image("second")
PUBLISHED = int(datetime(2024, 11, 24, 9, 30, tzinfo=UTC).timestamp()) * 1_000_000
DELETABLE: list[Rule] = [{"mode": "sealed", "keep": "deletable"}]


def short(digest: str) -> str:
    """Return `sha256:` and twelve digits."""
    return digest[: len("sha256:") + 12]


async def refusal(data: Path, tag: str, *also_taken: str) -> str:
    """Return the message of a second push to `tag`, two days after it was published at PUBLISHED."""
    clock = Clock(PUBLISHED)
    async with serving(data, clock=clock) as registry:
        for each in (tag, *also_taken):
            await push(registry.client, "shop/app", each, FIRST)
        clock.advance(days=2)
        code, message = error_of(await push(registry.client, "shop/app", tag, SECOND))
        if code != "DENIED":
            raise AssertionError(message)
        return message


async def test_the_whole_sentence_of_a_refused_push(data: Path) -> None:
    """A refusal names the tag, its digest, time and actor, the refused digest, and what to do instead."""
    message = await refusal(data, "1.4.2")

    assert message == (
        f"tag 1.4.2 of shop/app is sealed at {short(FIRST.digest)} since 2024-11-24 by anonymous; "
        f"this push is {short(SECOND.digest)}; publish under a new tag (free: 1.4.3)"
    )


@pytest.mark.parametrize(
    ("tag", "free"),
    [
        ("1.4.9", "1.4.10"),
        ("v1.4.2", "v1.4.3"),
        ("1.4.2-alpine3.20", "1.4.3-alpine3.20"),
        ("release-7", "release-8"),
    ],
)
async def test_the_next_free_tag_is_named(data: Path, tag: str, free: str) -> None:
    """The suggested free tag has the last number before the suffix increased by one."""
    assert f"(free: {free})" in await refusal(data, tag)


@pytest.mark.parametrize("tag", ["prod", "a" * 40, "2024-11-24"])
async def test_no_free_tag_is_invented(data: Path, tag: str) -> None:
    """For a tag without a number, no free tag is suggested."""
    message = await refusal(data, tag)

    assert "publish under a new tag" in message
    assert "free:" not in message


async def test_a_taken_tag_is_not_suggested(data: Path) -> None:
    """If the next tag is taken, none is suggested."""
    assert "free:" not in await refusal(data, "1.4.2", "1.4.3")


async def test_a_tombstone_is_not_suggested(data: Path) -> None:
    """If the next tag is a tombstone, none is suggested."""
    async with serving(data, DELETABLE) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        await push(registry.client, "shop/app", "1.4.3", FIRST)
        await registry.client.delete("/v2/shop/app/manifests/1.4.3")
        refused = await push(registry.client, "shop/app", "1.4.2", SECOND)

    assert refused.status_code == 409
    assert "free:" not in error_of(refused)[1]


@pytest.mark.parametrize("tag", ["1.4", "2", "v3.1", "1.4-alpine", "staging"])
async def test_the_rule_that_would_make_the_tag_mutable_is_printed_and_works(data: Path, tag: str) -> None:
    """For a tag such as 1.4 the refusal prints a rule that makes it mutable, and the rule works."""
    message = await refusal(data, tag)
    printed = message[message.index("[[rule]]") :]
    rule = dict(re.findall(r'(\w+) = "([^"]*)"', printed))

    assert rule["mode"] == "floating"
    async with serving(data.with_name("other"), [rule]) as registry:
        for document in (FIRST, SECOND):
            answer = await push(registry.client, "shop/app", tag, document)

            assert answer.status_code == 201
        sealed = await push(registry.client, "shop/app", f"{tag}.9", FIRST)
        refused = await push(registry.client, "shop/app", f"{tag}.9", SECOND)

    assert sealed.status_code == 201
    assert refused.status_code == 409


@pytest.mark.parametrize("tag", ["1.4.2", "v1.4.2-alpine", "20261124", "a1b2c3d"])
async def test_a_release_gets_no_rule(data: Path, tag: str) -> None:
    """For a release's tag, the refusal suggests no rule that makes it mutable."""
    assert "[[rule]]" not in await refusal(data, tag)


async def test_the_sentence_of_a_tombstone(data: Path) -> None:
    """The refusal for a tombstone has the time of the deletion and the complete digest that may return."""
    clock = Clock(PUBLISHED)
    async with serving(data, DELETABLE, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        clock.advance(days=3)
        await registry.client.delete("/v2/shop/app/manifests/1.4.2")
        clock.advance(days=1)
        message = error_of(await push(registry.client, "shop/app", "1.4.2", SECOND))[1]

    assert message == (
        f"tag 1.4.2 of shop/app was deleted on 2024-11-27; the tag can return only with {FIRST.digest}; "
        f"this push is {short(SECOND.digest)}; publish under a new tag (free: 1.4.3)"
    )


async def test_the_sentence_of_a_refused_delete(data: Path) -> None:
    """A refused delete of a tag says since when and how long it is kept, and who can change that."""
    async with serving(data, clock=Clock(PUBLISHED)) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        message = error_of(await registry.client.delete("/v2/shop/app/manifests/1.4.2"))[1]

    assert message == (
        f"tag 1.4.2 of shop/app is sealed at {short(FIRST.digest)} since 2024-11-24 by anonymous and kept for ever; "
        "an admin can lift that protection with `boltseal tag unseal`"
    )


async def test_the_sentence_of_a_refused_delete_of_a_part(data: Path) -> None:
    """A refused delete by digest names the sealed tags that need it."""
    parent = index(FIRST)
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", parent)
        await put(registry.client, "shop/app", "1.4.3", parent)
        manifest = error_of(await registry.client.delete(f"/v2/shop/app/manifests/{FIRST.digest}"))[1]
        blob = error_of(await registry.client.delete(f"/v2/shop/app/blobs/{FIRST.config.digest}"))[1]

    assert manifest == (
        f"manifest {short(FIRST.digest)} of shop/app is part of what tags 1.4.2 and 1.4.3 seal; "
        "an admin can lift that protection with `boltseal tag unseal`"
    )
    assert blob.startswith(f"blob {short(FIRST.config.digest)} of shop/app is part of what tags 1.4.2 and 1.4.3 seal;")


async def test_the_sentence_of_a_refused_delete_names_the_tag_that_can_be_deleted(data: Path) -> None:
    """A refused delete by digest names a mutable tag of that digest, which can be deleted by itself."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        await put(registry.client, "shop/app", "latest", FIRST)
        message = error_of(await registry.client.delete(f"/v2/shop/app/manifests/{FIRST.digest}"))[1]
        gone = await registry.client.delete("/v2/shop/app/manifests/latest")

    assert message == (
        f"manifest {short(FIRST.digest)} of shop/app is what tag 1.4.2 seals; "
        "an admin can lift that protection with `boltseal tag unseal`; tag latest alone can be deleted by its name"
    )
    assert gone.status_code == 202


async def test_the_sentence_of_a_signature_that_lost_something(data: Path) -> None:
    """A refused rewrite of a signature tag says that it is append-only, and what to do."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", FIRST)
        one, other = signature(FIRST, "alice"), signature(FIRST, "mallory")
        await push(registry.client, "shop/app", signature_tag(FIRST), one)
        refused = await push(registry.client, "shop/app", signature_tag(FIRST), other)

    assert error_of(refused)[0] == "DENIED"
    assert error_of(refused)[1] == (
        f"tag sha256-{FIRST.digest[7:19]}(...).sig of shop/app is append-only, and this push ({short(other.digest)}) "
        f"lacks layers or entries of the manifest that the tag resolves to ({short(one.digest)}); fetch that, add to it, push again"
    )
