"""Rules with `settle`: a tag waits for the index of its image before it is sealed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import httpx2
import pytest

from boltseal.ledger.entry import parse
from boltseal.oci.reference import Tag
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.store_factory import open_store
from tests.images import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    error_of,
    image,
    index,
    meaning,
    push,
    push_blob,
    put,
    to_json,
)
from tests.logins import as_user
from tests.polling import until_answer
from tests.server.seal.admin import ADMIN, APP, RELEASE, seals_of
from tests.serving import Clock, Serving, serving, serving_as, settings_of

SETTLE = ({"settle": "60s"},)
TAG = "/v2/shop/app/manifests/1.4.2"


def attestation(words: str) -> Document:
    """An attestation as BuildKit writes it: in-toto statements beside a config."""
    blobs = (
        Blob(to_json({"architecture": "unknown", "os": "unknown"}), OCI_CONFIG),
        Blob(words.encode(), "application/vnd.in-toto+json"),
    )
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blobs[0].descriptor(),
        "layers": [blobs[1].descriptor()],
    }
    return Document(to_json(body), OCI_MANIFEST, blobs)


CHILD, ATTESTED, OTHER = image("child"), attestation("provenance"), image("other")
INDEX = index(CHILD, ATTESTED)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_790_000_000_000_000)


@pytest.fixture
async def registry(data: Path, clock: Clock) -> AsyncIterator[Serving]:
    """A registry whose tags settle for a minute of a clock that only the test moves."""
    async with serving(data, SETTLE, clock=clock) as running:
        yield running


@pytest.fixture
def client(registry: Serving) -> httpx2.AsyncClient:
    return registry.client


async def history(registry: Serving) -> list[tuple[str, str, str]]:
    """Kind, mode and digest of the entries about the tag."""
    with open_store(settings_of(registry.data)) as store:
        lines = await store.database.read(lambda snapshot: list(ledger_store.lines(snapshot)))
    entries = (parse(line) for _, line in lines)
    return [(str(each.kind), each.extra.get("mode", ""), each.digest) for each in entries if each.tag == RELEASE]


async def until_sealed(client: httpx2.AsyncClient) -> httpx2.Response:
    """Poll the tag until it is sealed; the answer."""

    async def sealed() -> httpx2.Response | None:
        answer = await client.get(TAG)
        return answer if "max-age" in answer.headers["cache-control"] else None

    found = await until_answer(sealed, "the tag is sealed")
    assert found is not None
    return found


@pytest.mark.parametrize("parts", [(CHILD, ATTESTED), (ATTESTED, CHILD)], ids=["image-first", "attestation-first"])
async def test_an_image_pushed_in_parts_is_sealed_at_its_index(
    client: httpx2.AsyncClient, registry: Serving, parts: tuple[Document, Document]
) -> None:
    """Each part gets 201 with its digest, in any order, and the tag resolves to the index."""
    answers = [await push(client, "shop/app", "1.4.2", each) for each in (*parts, INDEX)]
    again = [await put(client, "shop/app", "1.4.2", each) for each in (*parts, INDEX)]
    refused = await push(client, "shop/app", "1.4.2", OTHER)
    pulled = await client.get(TAG)

    assert [each.status_code for each in (*answers, *again)] == [201] * 6
    assert [each.headers["docker-content-digest"] for each in answers] == [each.digest for each in (*parts, INDEX)]
    assert pulled.content == INDEX.raw
    assert pulled.headers["cache-control"] == "private, max-age=86400"
    assert "boltseal-settles" not in pulled.headers
    assert refused.status_code == 409
    assert await history(registry) == [
        ("tag.created", "settling", CHILD.digest),
        ("tag.moved", "sealed", INDEX.digest),
    ]


async def test_the_images_of_several_platforms_come_under_one_tag(client: httpx2.AsyncClient) -> None:
    """Images of other platforms are accepted until the index arrives; a second one of the same platform is refused."""
    arm, riscv = (image("child", architecture=each) for each in ("arm64", "riscv64"))
    first = [await push(client, "shop/app", "1.4.2", each) for each in (CHILD, arm, riscv)]
    between = await meaning(client, "shop/app", "1.4.2")
    refused = await push(client, "shop/app", "1.4.2", image("rebuilt"))
    whole = index(CHILD, arm, riscv)
    completed = await push(client, "shop/app", "1.4.2", whole)

    assert [each.status_code for each in (*first, refused, completed)] == [201, 201, 201, 409, 201]
    assert "tag 1.4.2 stays as it is" in first[1].headers["warning"]
    assert between == CHILD.digest
    assert await meaning(client, "shop/app", "1.4.2") == whole.digest


async def test_an_image_without_a_known_platform_is_no_part(client: httpx2.AsyncClient) -> None:
    """An artifact without a platform is refused, because it can't be a part of the image."""
    await push(client, "shop/app", "1.4.2", CHILD)
    await push(client, "shop/app", "1.4.3", artifact("sbom"))
    refused = [
        await push(client, "shop/app", "1.4.2", artifact("sbom")),
        await push(client, "shop/app", "1.4.3", CHILD),
    ]

    assert [each.status_code for each in refused] == [409, 409]


async def test_a_settling_tag_says_so(client: httpx2.AsyncClient, clock: Clock) -> None:
    """A settling tag can be pulled, is not cached, and states when it is sealed; its push names no ledger entry."""
    pushed = await push(client, "shop/app", "1.4.2", CHILD)
    pulled = await client.get(TAG)
    listed = await client.get("/v2/shop/app/tags/list")

    settles = "2026-09-21T14:14:20.000000Z"
    assert pulled.content == CHILD.raw
    assert pulled.headers["cache-control"] == "no-store"
    assert pulled.headers["boltseal-settles"] == pushed.headers["boltseal-settles"] == settles
    assert "boltseal-ledger-index" not in pushed.headers
    assert listed.headers["boltseal-settling"] == "1.4.2"


async def test_a_tag_without_an_index_is_sealed_when_its_time_is_over(
    client: httpx2.AsyncClient, registry: Serving, clock: Clock
) -> None:
    """The server seals a tag whose time is over, in the name of the user who pushed it."""
    await push(client, "shop/app", "1.4.2", CHILD)
    clock.advance(seconds=60)
    sealed = await until_sealed(client)
    refused = await push(client, "shop/app", "1.4.2", INDEX)

    assert sealed.headers["docker-content-digest"] == CHILD.digest
    assert refused.status_code == 409
    assert "sealed at" in error_of(refused)[1]
    assert "this client pushes every part of an image" in error_of(refused)[1]
    assert await history(registry) == [
        ("tag.created", "settling", CHILD.digest),
        ("tag.sealed", "sealed", CHILD.digest),
    ]


async def test_a_push_at_the_deadline_finds_the_tag_sealed(client: httpx2.AsyncClient, clock: Clock) -> None:
    """The push itself decides by the clock, whether or not the server has sealed the tag already."""
    await push(client, "shop/app", "1.4.2", CHILD)
    await push(client, "shop/app", "2.0.0", CHILD)
    clock.advance(seconds=59)
    early = await push(client, "shop/app", "2.0.0", INDEX)
    clock.advance(seconds=1)
    late = await push(client, "shop/app", "1.4.2", INDEX)
    same = await push(client, "shop/app", "1.4.2", CHILD)

    assert [early.status_code, late.status_code, same.status_code] == [201, 409, 201]
    assert "boltseal-settles" not in same.headers
    assert await meaning(client, "shop/app", "1.4.2") == CHILD.digest


async def test_the_deadline_survives_a_restart_and_a_change_of_the_rules(data: Path, clock: Clock) -> None:
    """The deadline and the time of protection are in the tag's row, so neither a restart nor new rules change them."""
    async with serving(data, ({"settle": "60s", "keep": "30d"},), clock=clock) as before:
        await push(before.client, "shop/app", "1.4.2", CHILD)
    async with serving(data, ({"mode": "floating"},), clock=clock) as after:
        refused = await push(after.client, "shop/app", "1.4.2", OTHER)
        clock.advance(seconds=60)
        sealed = await until_sealed(after.client)
        deleted = await after.client.delete(TAG)

    assert refused.status_code == 409
    assert "is settling" in error_of(refused)[1]
    assert sealed.headers["docker-content-digest"] == CHILD.digest
    assert "kept for 30 days" in error_of(deleted)[1]


@pytest.mark.parametrize(
    "document",
    [OTHER, index(OTHER), index(), image("child", docker=True), index(index(CHILD))],
    ids=["image", "foreign-index", "empty-index", "other-type", "index-of-index"],
)
async def test_only_an_index_that_lists_the_image_replaces_it(client: httpx2.AsyncClient, document: Document) -> None:
    """A push of anything but an index with the image is refused and leaves the tag unchanged."""
    await push(client, "shop/app", "1.4.2", CHILD)
    refused = await push(client, "shop/app", "1.4.2", document)

    assert refused.status_code == 409
    assert "is settling: anonymous pushed" in error_of(refused)[1]
    assert await meaning(client, "shop/app", "1.4.2") == CHILD.digest


async def test_an_index_that_lists_the_image_under_another_type_is_refused(client: httpx2.AsyncClient) -> None:
    """A descriptor with the right digest and a wrong media type does not name the image."""
    await push(client, "shop/app", "1.4.2", CHILD)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [CHILD.descriptor() | {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}],
    }
    refused = await put(client, "shop/app", "1.4.2", Document(to_json(body), OCI_INDEX))

    assert refused.status_code == 409


async def test_a_second_index_is_refused(client: httpx2.AsyncClient) -> None:
    """The first index seals the tag before its time is over, and a second is refused."""
    await push(client, "shop/app", "1.4.2", CHILD)
    await push(client, "shop/app", "1.4.2", INDEX)
    refused = await push(client, "shop/app", "1.4.2", index(CHILD, OTHER))
    part = await put(client, "shop/app", "1.4.2", OTHER)

    assert [refused.status_code, part.status_code] == [409, 409]
    assert await meaning(client, "shop/app", "1.4.2") == INDEX.digest


async def test_an_index_seals_a_new_tag_at_once(client: httpx2.AsyncClient) -> None:
    """A tag pushed as an index is sealed at once, and its parts pushed afterwards change nothing."""
    await push(client, "shop/app", "1.4.2", INDEX)
    parts = [await put(client, "shop/app", "1.4.2", each) for each in (CHILD, ATTESTED)]
    other_attestation = await push(client, "shop/app", "1.4.2", attestation("of another image"))
    pulled = await client.get(TAG)

    assert [each.status_code for each in parts] == [201, 201]
    assert other_attestation.status_code == 409
    assert (pulled.content, pulled.headers["cache-control"]) == (INDEX.raw, "private, max-age=86400")


async def test_an_index_with_a_missing_part_leaves_the_tag_settling(client: httpx2.AsyncClient) -> None:
    """An index with a missing part is refused, and the tag stays settling."""
    await push(client, "shop/app", "1.4.2", CHILD)
    incomplete = await put(client, "shop/app", "1.4.2", INDEX)
    settling = await client.head(TAG)
    whole = await push(client, "shop/app", "1.4.2", INDEX)

    assert (incomplete.status_code, error_of(incomplete)[0]) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert "boltseal-settles" in settling.headers
    assert whole.status_code == 201


async def test_an_attestation_alone_makes_no_tag(client: httpx2.AsyncClient) -> None:
    """An attestation that is pushed alone is stored under its digest, and the response names no tag."""
    answer = await push(client, "shop/app", ATTESTED.digest, ATTESTED, tags=["1.4.2"])

    assert answer.status_code == 201
    assert "oci-tag" not in answer.headers
    assert await meaning(client, "shop/app", "1.4.2") is None
    assert await meaning(client, "shop/app", ATTESTED.digest) == ATTESTED.digest


async def test_several_tags_settle_together(client: httpx2.AsyncClient) -> None:
    """With `?tag=` the index replaces all settling tags or, if one tag refuses it, none."""
    await push(client, "shop/app", CHILD.digest, CHILD, tags=["1.4.2", "1.4"])
    await push(client, "shop/app", "1.3.0", INDEX)
    await push(client, "shop/app", "1.2.0", index(OTHER))
    refused = await push(client, "shop/app", INDEX.digest, INDEX, tags=["1.4.2", "1.4", "1.2.0"])
    between = await meaning(client, "shop/app", "1.4.2")
    accepted = await push(client, "shop/app", INDEX.digest, INDEX, tags=["1.4.2", "1.4", "1.3.0"])

    assert refused.status_code == 409
    assert between == CHILD.digest
    assert accepted.headers.get_list("oci-tag") == ["1.4.2", "1.4", "1.3.0"]


async def test_preconditions_come_first(client: httpx2.AsyncClient) -> None:
    """A settling tag exists: `If-None-Match: *` fails, and `If-Match` compares its present digest."""
    await push(client, "shop/app", "1.4.2", CHILD)
    await push(client, "shop/app", INDEX.digest, INDEX)
    only_new = await put(client, "shop/app", "1.4.2", INDEX, headers={"if-none-match": "*"})
    other = await put(client, "shop/app", "1.4.2", INDEX, headers={"if-match": f'"{OTHER.digest}"'})
    part = await put(client, "shop/app", "1.4.2", ATTESTED, headers={"if-match": f'"{OTHER.digest}"'})
    right = await put(client, "shop/app", "1.4.2", INDEX, headers={"if-match": f'"{CHILD.digest}"'})

    assert [only_new.status_code, other.status_code, part.status_code, right.status_code] == [412, 412, 412, 201]


async def test_nothing_under_a_settling_tag_can_be_deleted(client: httpx2.AsyncClient) -> None:
    """The content of a settling tag is protected as the seal will protect it."""
    await push(client, "shop/app", "1.4.2", CHILD)
    paths = ["manifests/1.4.2", f"manifests/{CHILD.digest}", *(f"blobs/{blob.digest}" for blob in CHILD.blobs)]

    assert [(await client.delete(f"/v2/shop/app/{path}")).status_code for path in paths] == [405] * 4
    assert (await client.head(TAG)).headers["boltseal-settles"]


async def test_a_deletable_settling_tag_leaves_a_tombstone(data: Path, clock: Clock) -> None:
    """A deleted settling tag is sealed first, so that another image can't take it."""
    async with serving(data, ({"settle": "60s", "keep": "deletable"},), clock=clock) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", CHILD)
        deleted = await client.delete(TAG)
        other = await push(client, "shop/app", "1.4.2", OTHER)
        back = await push(client, "shop/app", "1.4.2", CHILD)
        entries = await history(registry)

    assert [deleted.status_code, other.status_code, back.status_code] == [202, 409, 201]
    assert "can return only with" in error_of(other)[1]
    assert [kind for kind, _, _ in entries] == ["tag.created", "tag.sealed", "tag.deleted", "tag.created"]


async def test_an_admin_seals_unseals_and_purges_a_settling_tag(client: httpx2.AsyncClient, registry: Serving) -> None:
    """Sealing, unsealing and purging a settling tag each seal it first."""
    for tag in ("1.4.2", "1.4.3", "1.4.4"):
        await push(client, "shop/app", tag, image(tag))
    with seals_of(registry.data) as seals:
        await seals.seal(APP, RELEASE, ADMIN, "it is whole")
        await seals.unseal(APP, Tag("1.4.3"), ADMIN, "a mistake")
        await seals.purge(APP, Tag("1.4.4"), ADMIN, "a leaked secret")
    refused = [await push(client, "shop/app", tag, OTHER) for tag in ("1.4.2", "1.4.3", "1.4.4")]

    assert [each.status_code for each in refused] == [409] * 3
    assert "can return only with" in error_of(refused[2])[1]
    assert (await client.head(TAG)).headers["cache-control"] == "private, max-age=86400"


async def test_another_user_can_not_complete_or_change_a_settling_tag(data: Path) -> None:
    """The index, an attestation or another image of another user is refused, and the tag's own user goes on."""
    users = ["ci", "boss"]
    file = data.with_name("users")
    hashes = (bcrypt.hashpw(f"pw-{name}".encode(), bcrypt.gensalt(4)).decode() for name in users)
    file.write_text("".join(f"{name}:{each}\n" for name, each in zip(users, hashes, strict=True)))
    grants = [{"users": users, "repository": "shop/**", "actions": ["pull", "push"]}]
    settings = Settings.model_validate(
        {"server": {"data": data}, "auth": {"grant": grants, "htpasswd": file}, "rule": [{"settle": "60s"}]}
    )
    async with serving_as(settings) as registry:
        client = registry.client
        client.headers.update(as_user("ci"))
        await push(client, "shop/app", "1.4.2", CHILD)
        await push(client, "shop/app", INDEX.digest, INDEX)
        client.headers.update(as_user("boss"))
        refused = [await push(client, "shop/app", "1.4.2", each) for each in (INDEX, ATTESTED, OTHER)]
        same = await push(client, "shop/app", "1.4.2", CHILD)
        client.headers.update(as_user("ci"))
        completed = await push(client, "shop/app", "1.4.2", INDEX)

    assert [each.status_code for each in (*refused, same, completed)] == [409, 409, 409, 201, 201]
    assert "only an index from ci" in error_of(refused[0])[1]


async def test_a_mutable_tag_settles_before_it_is_sealed(data: Path, clock: Clock) -> None:
    """A mutable tag under a new sealing rule settles with the parts of its next push."""
    async with serving(data, ({"mode": "floating"},), clock=clock) as before:
        await push(before.client, "shop/app", "1.4.2", OTHER)
    async with serving(data, SETTLE, clock=clock) as after:
        client = after.client
        answers = [await push(client, "shop/app", "1.4.2", each) for each in (ATTESTED, CHILD, INDEX)]
        refused = await push(client, "shop/app", "1.4.2", OTHER)
        entries = await history(after)

    assert [each.status_code for each in (*answers, refused)] == [201, 201, 201, 409]
    assert entries[1:] == [("tag.moved", "settling", CHILD.digest), ("tag.moved", "sealed", INDEX.digest)]


async def test_without_the_rule_the_refusal_names_the_cause_and_the_remedies(data: Path) -> None:
    """Without `settle` the first part is sealed, and the refusal of the next explains the cause and the remedies."""
    async with serving(data) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", CHILD)
        await push(client, "shop/app", "1.4.3", ATTESTED)
        await push(client, "shop/app", "1.4.4", INDEX)
        refused = [
            await push(client, "shop/app", tag, document)
            for tag, document in (("1.4.2", ATTESTED), ("1.4.2", INDEX), ("1.4.3", CHILD), ("1.4.4", CHILD))
        ]
        plain = await push(client, "shop/app", "1.4.2", OTHER)

    assert [each.status_code for each in refused] == [409] * 4
    assert all("--provenance=false" in error_of(each)[1] for each in refused)
    assert all('settle = "60s"' in error_of(each)[1] for each in refused)
    assert "--provenance" not in error_of(plain)[1]


async def test_a_tag_whose_content_is_missing_is_not_sealed_but_reported(data: Path, clock: Clock) -> None:
    """A tag with missing content stays settling, `/readyz` names it, and it is sealed when the content is pushed again."""
    async with serving(data, ({"settle": "60s", "keep": "deletable"},), clock=clock) as registry:
        client = registry.client
        await push(client, "shop/app", "1.4.2", CHILD)
        await client.delete(f"/v2/shop/app/blobs/{CHILD.layers[0].digest}")
        clock.advance(seconds=61)

        async def warned() -> list[str]:
            warnings: list[str] = (await client.get("/readyz")).json().get("warnings", [])
            return [each for each in warnings if "can't be sealed" in each]

        (warning,) = await until_answer(warned, "the server warns of the tag")
        same = await put(client, "shop/app", "1.4.2", CHILD)
        other = await push(client, "shop/app", "1.4.2", OTHER)
        settling = await client.head(TAG)
        await push_blob(client, "shop/app", CHILD.layers[0])
        sealed = await put(client, "shop/app", "1.4.2", CHILD)
        after = await client.head(TAG)

    assert f"shop/app:1.4.2 settled, but can't be sealed: shop/app lacks {CHILD.layers[0].digest}" in warning
    assert (same.status_code, error_of(same)[0]) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert (other.status_code, error_of(other)[0]) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert "boltseal-settles" in settling.headers
    assert sealed.status_code == 201
    assert after.headers["cache-control"] == "private, max-age=86400"
