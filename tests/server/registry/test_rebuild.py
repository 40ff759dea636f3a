"""`admin fsck --rebuild`: a registry that lost its database answers as before, from its bucket and keys; a bucket that lies is found."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from boltseal.oci.digest import Digest
from boltseal.server.commands.rebuild import rebuild_store
from boltseal.server.registry.rebuilt_logs import RebuildRefused
from boltseal.server.storage.blobs.object_contents import MOST_INDEX_BYTES
from boltseal.server.storage.blobs.object_upload import index_document, index_key, new_key
from boltseal.server.storage.bucket_owner import BucketTaken
from boltseal.server.storage.findings import FindingStatus
from boltseal.server.storage.metadata.blob_keys import ObjectPart
from boltseal.server.storage.object_manifests import MOST_BYTES, ManifestCopy, decode, encode
from boltseal.server.store_factory import collect_store, prepare
from tests.images import Document, artifact, image, index, signature
from tests.polling import until_signed
from tests.server.registry.lost_registry import Answer, Answers, Registry, fill, filled, rebuilt, registry_on
from tests.server.registry.rows import forget_manifest_objects
from tests.storage_servers import ACCESS_KEY, SECRET_KEY, ObjectServer


@pytest.fixture(params=["sqlite"])
def registry(
    request: pytest.FixtureRequest, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """An empty registry with its blobs on the S3 server, below a prefix of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    new_database = request.getfixturevalue("new_database") if request.param == "postgresql" else None
    return registry_on(object_server, tmp_path / "data", new_database)


@pytest.mark.parametrize("registry", ["sqlite", "postgresql"], indirect=True)
async def test_every_answer_is_the_same_after_a_rebuild(registry: Registry) -> None:
    """Tags, digests, referrers, blobs, histories and the ledger's tiles are the same in each repository, and fsck finds nothing."""
    before = await filled(registry)
    stored = {str(decode(registry.content(key)).digest) for key in registry.keys("manifests/")}
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)
        sealed = await registry.push(client, "shop/app", "v1", image("other"))
        moved = await registry.push(client, "shop/app", "latest", image("other"))

    assert (result.findings, result.examined.findings) == ((), ())
    assert {path: after[path] for path in before} == before
    assert (sealed, moved) == (409, 201)
    assert stored.isdisjoint({image("gone").digest, image("another").digest})


def _changed(registry: Registry, document: Document) -> None:
    """Change the last byte of one object of a manifest."""
    key = next(
        key for key in registry.keys("manifests/") if str(decode(registry.content(key)).digest) == document.digest
    )
    obstore.put(registry.bucket, key, registry.content(key)[:-1] + b" ")


def _changed_image(registry: Registry) -> None:
    _changed(registry, image("one"))


def _changed_child(registry: Registry) -> None:
    _changed(registry, index(image("one"), image("two")))


def _changed_referrer(registry: Registry) -> None:
    _changed(registry, artifact("sbom", subject=image("one")))


def _changed_signature(registry: Registry) -> None:
    _changed(registry, signature(image("one"), "ci"))


def _changed_untagged(registry: Registry) -> None:
    _changed(registry, image("three"))


def _objects_of_a_blob(registry: Registry) -> list[str]:
    """Return the objects of one blob, also those of its former copies that are not deleted yet."""
    [first, *_] = registry.keys("index/")
    copies = [json.loads(registry.content(key)) for key in registry.keys(first.rpartition("/")[0])]
    return [each["key"] for copy in copies for each in copy["keys"]]


def _missing_blob(registry: Registry) -> None:
    obstore.delete(registry.bucket, _objects_of_a_blob(registry))


def _shorter_blob(registry: Registry) -> None:
    for key in _objects_of_a_blob(registry):
        obstore.put(registry.bucket, key, b"")


def _changed_tile(registry: Registry) -> None:
    key = max(
        (key for key in registry.keys("ledger/") if "/tile/0/" in key), key=lambda each: int(each.rpartition("/")[2])
    )
    obstore.put(registry.bucket, key, bytes(len(registry.content(key))))


def _is_part_of(after: Answer, before: Answer) -> bool:
    """Whether an answer is the former one, one that says that it can't be given, or a list with fewer items."""
    if after == before or after[0] in (404, 503):
        return True
    lists = [json.loads(content) for _, content, _ in (after, before)]
    [name] = lists[1].keys() & {"manifests", "tags"}
    items = [each.pop(name) or [] for each in lists]
    return after[0] == before[0] and lists[0] == lists[1] and all(item in items[1] for item in items[0])


LIES = [
    _changed_image,
    _changed_child,
    _changed_referrer,
    _changed_signature,
    _changed_untagged,
    _missing_blob,
    _shorter_blob,
    _changed_tile,
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_of_the_bucket_is_reported_and_not_used(
    registry: Registry, lie: Callable[[Registry], None]
) -> None:
    """A changed manifest, a blob without its bytes and a changed tile are findings, and everything else is restored."""
    before = await filled(registry)
    lie(registry)
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)
    tiles = {path for path in before if "/tile/0/" in path}

    assert [finding.status for finding in result.findings] == [FindingStatus.DIFFERS]
    assert [path for path in before.keys() - tiles if not _is_part_of(after[path], before[path])] == []
    assert sum(after[path] != before[path] for path in before) < len(before) / 2


async def test_objects_with_foreign_names_are_left_alone(registry: Registry) -> None:
    """Objects that boltseal does not write are neither used nor deleted by a rebuild."""
    before = await filled(registry)
    foreign = ["manifests/notes.txt", "index/sha256/x", "blobs/y", f"manifests/{uuid.uuid4().hex}/z"]
    for key in foreign:
        obstore.put(registry.bucket, key, b"?")
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert result.findings == ()
    assert {path: after[path] for path in before} == before
    assert {key for prefix in ("manifests/", "index/", "blobs/") for key in registry.keys(prefix)}.issuperset(foreign)


async def test_objects_that_an_attacker_added_stop_nothing(registry: Registry) -> None:
    """Added manifests and index objects that can't be used are findings, and everything else is restored."""
    before = await filled(registry)
    nested, raw = b"[" * 200_000, b"{}"
    of_no_type = encode(ManifestCopy("shop/app", Digest.of(raw), "no type", 1, "ci", frozenset(), raw))
    of_no_database = encode(ManifestCopy("shop/app", Digest.of(raw), "a/b", 2**63, "ci", frozenset(), raw))
    for content in (of_no_type, of_no_database, nested, bytes(MOST_BYTES + 1)):
        obstore.put(registry.bucket, f"manifests/{uuid.uuid4().hex}", content)
    digest, other = Digest.of(b"added"), Digest.of(b"added too")
    part = ObjectPart(new_key(), 1)
    obstore.put(registry.bucket, part.key, b"a")
    obstore.put(registry.bucket, index_key(digest), index_document(digest, [part, part]))
    for content in (nested, bytes(MOST_INDEX_BYTES + 1)):
        obstore.put(registry.bucket, index_key(other), content)
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert [finding.status for finding in result.findings] == [FindingStatus.DIFFERS] * 6
    assert {path: after[path] for path in before} == before


async def test_changed_entries_restore_nothing(registry: Registry) -> None:
    """If a bundle is not what was signed, the rebuild refuses and names the roots; when it is put back, the next run restores."""
    before = await filled(registry)
    key = next(key for key in registry.keys("ledger/") if key.endswith(f"/{_signed_size(before)}") and "entries" in key)
    right = registry.content(key)
    obstore.put(registry.bucket, key, right.replace(b"anonymous", b"anonymouz"))
    registry.lose_database()
    with pytest.raises(RebuildRefused, match="expected"):
        rebuild_store(registry.settings, lambda *_: None)
    obstore.put(registry.bucket, key, right)
    result = rebuild_store(registry.settings, lambda *_: None)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert result.findings == ()
    assert {path: after[path] for path in before} == before


async def test_an_older_bucket_is_noticed_by_the_mark(registry: Registry) -> None:
    """If the bucket has fewer entries than the mark says, the older ledger is restored, and the loss is a finding."""
    async with registry.serving() as client:
        await fill(registry, client)
        await until_signed(client, 9)
    async with registry.serving() as client:
        older = {key: registry.content(key) for key in registry.keys("ledger/")}
        await registry.push(client, "tools", "later", image("later"))
        size = int((await client.get("/ledger/checkpoint")).text.split("\n")[1])
        await until_signed(client, size + 1)
    obstore.delete(registry.bucket, registry.keys("ledger/"))
    for key, content in older.items():
        obstore.put(registry.bucket, key, content)
    result = rebuilt(registry)

    assert any("can't be restored" in finding.problem for finding in result.findings)
    assert result.rebuilt.entries == size


async def test_a_rebuild_needs_an_empty_database(registry: Registry) -> None:
    """A database with content is refused and not changed, and a server does not start on an empty one."""
    await filled(registry)
    with pytest.raises(RebuildRefused, match="not empty"):
        rebuild_store(registry.settings, lambda *_: None)
    registry.lose_database()
    with pytest.raises(BucketTaken, match="--rebuild"):
        prepare(registry.settings)
    result = rebuild_store(registry.settings, lambda *_: None)

    assert result.findings == ()


async def test_manifests_of_an_older_version_get_their_objects(registry: Registry) -> None:
    """Manifests whose rows name no object get one from the regular cleanup, and can be restored then."""
    before = await filled(registry)
    obstore.delete(registry.bucket, registry.keys("manifests/"))
    forget_manifest_objects(registry.data)
    list(collect_store(registry.settings, dry_run=False))
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert (result.findings, result.examined.findings) == ((), ())
    assert {path: after[path] for path in before} == before


def _signed_size(answers: Answers) -> int:
    return int(answers["/ledger/checkpoint"][1].decode().split("\n")[1])
