"""A rebuild gives a repository only the blobs that it had, whatever its manifests name (guarantee 13)."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import obstore
import pytest

from boltseal.server.store_factory import collect_store, open_store
from tests.images import (
    OCI_FOREIGN_LAYER,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    holds_blob,
    image,
    index,
    layer,
    meaning,
    push,
    push_blob,
    put,
    to_json,
)
from tests.polling import until_signed
from tests.server.registry.lost_registry import REPOSITORIES, Registry, rebuilt, registry_on
from tests.storage_servers import ACCESS_KEY, SECRET_KEY, ObjectServer

VICTIM, ATTACKER, OTHER = REPOSITORIES
SECRET = layer("secret")
Held = frozenset[tuple[str, str]]
"""Which repository answers a HEAD of which blob with 200."""


@pytest.fixture(params=["sqlite"])
def registry(
    request: pytest.FixtureRequest, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """An empty registry with its blobs on the S3 server, below a prefix of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    new_database = request.getfixturevalue("new_database") if request.param == "postgresql" else None
    return registry_on(object_server, tmp_path / "data", new_database)


def naming(*blobs: Blob, words: str = "") -> Document:
    """Return an image manifest whose config is the first blob, and whose layers are all."""
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blobs[0].descriptor(),
        "layers": [each.descriptor() for each in blobs],
        "annotations": {"words": words},
    }
    return Document(to_json(body), OCI_MANIFEST, blobs)


def listing(*blobs: Blob) -> Document:
    """Return an index whose children are blobs, as BuildKit writes its cache."""
    children = (Document(each.data, each.media_type, (each,)) for each in blobs)
    return Document(index(*children).raw, index().media_type, blobs)


async def held(client: httpx2.AsyncClient, blobs: list[Blob]) -> Held:
    """Return which repositories have which of these blobs."""
    return frozenset(
        [(name, each.digest) for name in REPOSITORIES for each in blobs if await holds_blob(client, name, each.digest)]
    )


async def signed(client: httpx2.AsyncClient) -> None:
    """Push a tag, without which there is no ledger to rebuild, and wait until its entry is signed."""
    pushed = await push(client, VICTIM, "v1", image("sealed"))
    await until_signed(client, int(pushed.headers["boltseal-ledger-index"]) + 1)


def cleaned(registry: Registry) -> None:
    """Do what the server does each hour."""
    list(collect_store(registry.settings, dry_run=False))


async def _layers(client: httpx2.AsyncClient) -> None:
    await put(client, ATTACKER, "latest", naming(SECRET))


async def _foreign_layer(client: httpx2.AsyncClient) -> None:
    foreign = Blob(SECRET.data, OCI_FOREIGN_LAYER)
    await push_blob(client, ATTACKER, Blob(b"{}"))
    await put(client, ATTACKER, "latest", naming(Blob(b"{}"), foreign))


async def _index_of_blobs(client: httpx2.AsyncClient) -> None:
    await put(client, ATTACKER, "latest", listing(SECRET))


async def _subject(client: httpx2.AsyncClient) -> None:
    await push(client, ATTACKER, "latest", artifact("sbom", subject=Document(SECRET.data, OCI_LAYER)))


async def _pushed_before(client: httpx2.AsyncClient) -> None:
    """The manifest is in the victim's repository too, which has the blob, and is pushed again after its deletion."""
    await put(client, ATTACKER, "latest", naming(SECRET))
    await put(client, VICTIM, "latest", naming(SECRET))
    await client.delete(f"/v2/{ATTACKER}/manifests/{naming(SECRET).digest}")
    for reference in ("latest", naming(SECRET).digest, "latest"):
        await put(client, ATTACKER, reference, naming(SECRET))


async def _children(client: httpx2.AsyncClient) -> None:
    """An index names the victim's image, which the repository does not have."""
    await put(client, VICTIM, "latest", naming(SECRET))
    await put(client, ATTACKER, "latest", index(naming(SECRET)))


async def manifests_of_attacker(client: httpx2.AsyncClient) -> list[int]:
    """Return the answers about the attacker's manifest, and about the victim's in the attacker's repository."""
    paths = ("latest", naming(SECRET).digest)
    return [(await client.get(f"/v2/{ATTACKER}/manifests/{each}")).status_code for each in paths]


ATTACKS = [_layers, _foreign_layer, _index_of_blobs, _subject, _pushed_before, _children]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_manifest_without_its_parts_reaches_no_blob_of_another_repository(
    registry: Registry, attack: Callable[[httpx2.AsyncClient], Awaitable[None]]
) -> None:
    """A manifest that names a blob of another repository does not give that blob, neither before nor after a rebuild."""
    async with registry.serving() as client:
        await push_blob(client, VICTIM, SECRET)
        await put(client, VICTIM, "kept", naming(SECRET, words="kept"))
        await attack(client)
        await signed(client)
        before, manifests = await held(client, [SECRET]), await manifests_of_attacker(client)
    rebuilt(registry)
    async with registry.serving() as client:
        after, manifests_after = await held(client, [SECRET]), await manifests_of_attacker(client)

    assert before == after == {(VICTIM, SECRET.digest)}
    assert manifests == manifests_after
    assert manifests[0] == 200


async def test_a_blob_that_came_after_its_manifest_is_restored(registry: Registry) -> None:
    """A layer that came after its manifests is restored, also when all but one of these are deleted."""
    first, second = naming(SECRET, words="first"), naming(SECRET, words="second")
    async with registry.serving() as client:
        await signed(client)
        await put(client, ATTACKER, first.digest, first)
        await put(client, OTHER, first.digest, first)
        await push_blob(client, ATTACKER, SECRET)
        mounted = await client.post(f"/v2/{OTHER}/blobs/uploads/", params={"mount": SECRET.digest, "from": ATTACKER})
        await put(client, OTHER, second.digest, second)
    cleaned(registry)
    rebuilt(registry)
    cleaned(registry)
    async with registry.serving() as client:
        once = await held(client, [SECRET])
        await client.delete(f"/v2/{OTHER}/manifests/{second.digest}")
    cleaned(registry)
    rebuilt(registry)
    async with registry.serving() as client:
        twice = await held(client, [SECRET])

    assert mounted.status_code == 201
    assert once == twice == {(ATTACKER, SECRET.digest), (OTHER, SECRET.digest)}


async def test_an_outdated_object_beside_the_newer_one_takes_nothing_away(registry: Registry) -> None:
    """While a manifest has a former object beside its new one, a rebuild restores the blob that only the new one states."""
    async with registry.serving() as client:
        await signed(client)
        await put(client, ATTACKER, "latest", naming(SECRET))
        await push_blob(client, ATTACKER, SECRET)
    with open_store(registry.settings) as store:
        assert store.blobs.manifests is not None
        store.blobs.manifests.write_missing()
    for _ in range(2):
        rebuilt(registry)
        async with registry.serving() as client:
            after = await held(client, [SECRET])

        assert after == {(ATTACKER, SECRET.digest)}


async def test_an_object_of_format_1_gives_no_blob(registry: Registry) -> None:
    """An object that does not state its parts restores manifest and tag, and is a finding; a push brings the blobs back."""
    pushed = image("old")
    async with registry.serving() as client:
        await signed(client)
        await push(client, OTHER, "latest", pushed)
    for key in registry.keys("manifests/"):
        line, _, raw = registry.content(key).partition(b"\n")
        header = json.loads(line) | {"format": 1}
        del header["parts"]
        obstore.put(registry.bucket, key, to_json(header) + b"\n" + raw)
    result = rebuilt(registry)
    async with registry.serving() as client:
        resolved, lost = await meaning(client, OTHER, "latest"), await held(client, [*pushed.blobs])
        again = await push(client, OTHER, "latest", pushed)
    cleaned(registry)
    sound = rebuilt(registry)
    async with registry.serving() as client:
        back = await held(client, [*pushed.blobs])

    named = {f"{name}@{each.digest}" for name, each in ((VICTIM, image("sealed")), (OTHER, pushed))}
    assert {finding.what for finding in result.findings} == named
    assert (resolved, lost, again.status_code) == (pushed.digest, frozenset(), 201)
    assert back == {(OTHER, each.digest) for each in pushed.blobs}
    assert {finding.what for finding in sound.findings} == named


BLOBS = [layer(str(number)) for number in range(6)]
DOCUMENTS = [
    naming(*BLOBS[:2], words="a"),
    naming(*BLOBS[:2], words="b"),
    naming(*BLOBS[1:4]),
    naming(BLOBS[0], Blob(BLOBS[4].data, OCI_FOREIGN_LAYER)),
    listing(BLOBS[4], BLOBS[5]),
    index(naming(*BLOBS[:2], words="a"), naming(*BLOBS[1:4])),
]


async def change(client: httpx2.AsyncClient, chance: random.Random, *, deletes: bool) -> int:
    """Send one request that changes what a repository has. Returns the status of the answer."""
    name, other = chance.sample(REPOSITORIES, 2)
    blob, document = chance.choice(BLOBS), chance.choice(DOCUMENTS)
    kinds = ["push", "mount", "put", "tag"] + ["unblob", "unput"] * deletes
    match chance.choice(kinds):
        case "push":
            return (await push_blob(client, name, blob)).status_code
        case "mount":
            source = {"mount": blob.digest, "from": other}
            return (await client.post(f"/v2/{name}/blobs/uploads/", params=source)).status_code
        case "put":
            return (await put(client, name, document.digest, document)).status_code
        case "tag":
            return (await put(client, name, chance.choice(["latest", "edge"]), document)).status_code
        case "unblob":
            return (await client.delete(f"/v2/{name}/blobs/{blob.digest}")).status_code
        case _:
            return (await client.delete(f"/v2/{name}/manifests/{document.digest}")).status_code


async def contained(client: httpx2.AsyncClient) -> Held:
    """Return which blobs a manifest of each repository names."""
    return frozenset(
        [
            (name, blob.digest)
            for name in REPOSITORIES
            for each in DOCUMENTS
            if (await client.head(f"/v2/{name}/manifests/{each.digest}")).status_code == 200
            for blob in each.blobs
        ]
    )


@pytest.mark.parametrize("registry", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("seed", range(2))
async def test_after_any_requests_a_rebuild_gives_each_repository_its_blobs(registry: Registry, seed: int) -> None:
    """After random requests a rebuilt repository has those blobs that it had and that its manifests refer to, and no others."""
    chance = random.Random(seed)  # noqa: S311 - a test's choices
    for _ in range(2):
        async with registry.serving() as client:
            await signed(client)
            for _ in range(40):
                assert await change(client, chance, deletes=True) < 500
            before, named = await held(client, BLOBS), await contained(client)
        cleaned(registry)
        result = rebuilt(registry)
        async with registry.serving() as client:
            after, named_after = await held(client, BLOBS), await contained(client)

        assert (result.findings, result.examined.findings) == ((), ())
        assert named_after == named
        assert after == before & named
        assert before - named, "no blob that only a push or mount gave"
        assert named - before, "no manifest without its parts"


@pytest.mark.parametrize("seed", range(2))
async def test_a_loss_before_the_hourly_cleanup_gives_no_repository_more(registry: Registry, seed: int) -> None:
    """If the database is lost before the cleanup, no repository gets a blob that it lacked."""
    chance = random.Random(seed)  # noqa: S311 - a test's choices
    async with registry.serving() as client:
        await signed(client)
        for _ in range(60):
            assert await change(client, chance, deletes=False) < 500
        before, named = await held(client, BLOBS), await contained(client)
    rebuilt(registry)
    async with registry.serving() as client:
        after = await held(client, BLOBS)

    assert after <= before
    assert after
    assert named - before, "no manifest without its parts"
