"""The objects of manifests: announced, written before a push counts, dropped when it is refused, dead when they are not needed."""

from __future__ import annotations

import asyncio
import tracemalloc
from functools import partial
from pathlib import Path

import obstore
import pytest

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.reference import Repository
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.manifests import add_row
from boltseal.server.registry.models import ManifestPush, PushedManifest
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import blob_keys, queries
from boltseal.server.storage.metadata.blob_keys import ANNOUNCED_FOR_US
from boltseal.server.storage.metadata.object_names import MANIFESTS
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.object_manifests import (
    KEYS_AT_ONCE,
    ManifestCopy,
    ManifestObjectInvalid,
    ObjectManifests,
    WrittenObject,
    decode,
    encode,
)
from boltseal.server.store_factory import examine_store, open_store, prepare
from tests.images import Document, image, push
from tests.object_faults import Fault, faulty, no_fault, on
from tests.object_stores import now_us
from tests.server.registry.lost_registry import Registry, registry_on
from tests.serving import serving_as
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

PARTS = frozenset({Digest.of(b"layer"), Digest.of(b"config", "sha512")})
COPY = ManifestCopy("shop/app", Digest.of(b"{}"), "application/json", 1, "ci", PARTS, b"{}")
WITHOUT_PARTS = (
    encode(COPY._replace(parts=frozenset())).replace(b'"format":2', b'"format":1').replace(b',"parts":[]', b"")
)
SHOP, CI = Repository("shop/app"), "ci"
LARGE, LARGE_BYTES = 32, 512 * 1024
"""How many large manifests lose their objects, and how large they are."""
SEALED = [{"repository": "**", "tag": "*", "mode": "sealed"}]


def test_an_object_is_parsed_as_it_was_written() -> None:
    """Repository, digest, media type, time, user, parts and bytes come back, also bytes with line breaks."""
    raw = b'{"a":\n1}\n'
    copy = COPY._replace(raw=raw, digest=Digest.of(raw, "sha512"))

    assert decode(encode(copy)) == copy


def test_an_object_of_format_1_states_no_parts() -> None:
    """An object of format 1 is read, and its parts are unknown, which is not the same as none."""
    assert decode(WITHOUT_PARTS) == COPY._replace(parts=None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[]\n{}",
        b'{"format":2}\n{}',
        b'{"format":3}\n{}',
        encode(COPY) + b" ",
        encode(COPY).replace(b'"format":2', b'"format":1'),
        encode(COPY).replace(b'"format":2', b'"format":3'),
        encode(COPY).replace(b'"parts":[', b'"parts":[1,'),
        encode(COPY).replace(b'"parts":[', b'"parts":["sha256:x",'),
        encode(COPY._replace(parts=frozenset())).replace(b'"parts":[]', b'"parts":null'),
        encode(COPY._replace(parts=frozenset())).replace(b'"parts":[]', b'"parts":"sha256"'),
        WITHOUT_PARTS.replace(b'"format":1', b'"format":2'),
        encode(COPY).replace(b"shop/app", b"../app"),
        encode(COPY).replace(b'"pushed_us":1', b'"pushed_us":true'),
        encode(COPY).replace(b'"pushed_by":"ci"', b'"pushed_by":1'),
        encode(COPY).replace(b'"format"', b'"more":1,"format"'),
        encode(COPY).replace(b"sha256:4", b"sha256:5"),
        encode(COPY).replace(b'"pushed_us":1', b'"pushed_us":9223372036854775808'),
        encode(COPY._replace(pushed_by="c\0i")),
        encode(COPY._replace(pushed_by="\ud800")),
        b"[" * 200_000 + b"\n{}",
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    """Other bytes than the digest's, unknown keys, wrong types, what no database stores, and no repository's name are not used."""
    with pytest.raises(ManifestObjectInvalid):
        decode(content)


async def test_each_push_has_one_object_whatever_failed_before(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push whose object can't be written, or whose answer is lost, gets 503 and stores nothing; a refused one leaves no object."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    prefix = tmp_path.name.replace("_", "-")
    with faulty(object_server) as proxy:
        storage = {"blobs": f"s3://{BUCKET}/{prefix}", "s3": {"endpoint": proxy.endpoint}}
        settings = Settings.model_validate({"server": {"data": tmp_path / "data"}, "storage": storage, "rule": SEALED})
        one, other, gone = image("one"), image("other"), image("gone")
        failed = []
        prepare(settings)
        async with serving_as(settings) as registry:
            for fault in (Fault.REFUSED, Fault.LOST):
                proxy.plan = on("PUT", "/manifests/", fault)
                failed.append((await push(registry.client, "shop/app", "v1", one)).status_code)
                failed.append((await registry.client.get("/v2/shop/app/manifests/v1")).status_code)
            proxy.plan = no_fault
            pushed = await push(registry.client, "shop/app", "v1", one)
            again = await push(registry.client, "shop/app", "v1", one)
            refused = await push(registry.client, "shop/app", "v1", other)
            await push(registry.client, "shop/app", gone.digest, gone)
            deleted = await registry.client.delete(f"/v2/shop/app/manifests/{gone.digest}")
        with open_store(settings) as store:
            upkeep = store.blobs.upkeep
            assert upkeep is not None
            upkeep.run(now_us())
            upkeep.run(now_us() + ANNOUNCED_FOR_US)
        bucket = object_server.store(prefix)
        left = [
            bytes(obstore.get(bucket, each["path"]).bytes())
            for page in obstore.list(bucket, "manifests/")
            for each in page
        ]

    assert failed == [503, 404] * 2
    assert [answer.status_code for answer in (pushed, again, refused, deleted)] == [201, 201, 409, 202]
    assert [str(decode(content).digest) for content in left] == [one.digest]


@pytest.fixture
def registry(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry with its blobs on the S3 server, below a prefix of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return registry_on(object_server, tmp_path / "data")


def written_by(store: OpenStore, document: Document) -> WrittenObject:
    """Write the object of a manifest, as a push does before its transaction."""
    manifests, manifest = store.blobs.manifests, parse_manifest(document.raw, document.media_type)
    assert manifests is not None
    written = asyncio.run(manifests.write(SHOP, Digest.parse(document.digest), manifest, CI))
    assert written is not None
    return written


def stated(registry: Registry) -> list[tuple[str, frozenset[Digest] | None]]:
    """Return the digests of all manifests with objects, and the parts that these state."""
    copies = [decode(registry.content(key)) for key in registry.keys(MANIFESTS)]
    return sorted((str(copy.digest), copy.parts) for copy in copies)


def cleaned(store: OpenStore, at_us: int) -> None:
    """Do what the server does each hour."""
    assert store.blobs.upkeep is not None
    store.blobs.upkeep.run(at_us)


def test_what_a_killed_push_wrote_is_deleted_after_a_day(registry: Registry) -> None:
    """The object of a push that was killed before its transaction is deleted a day later by the cleanup, and not earlier."""
    prepare(registry.settings)
    with open_store(registry.settings) as store:
        written = written_by(store, image("one"))
    with open_store(registry.settings) as store:
        cleaned(store, now_us() + ANNOUNCED_FOR_US // 2)
        half_a_day_later = registry.keys(MANIFESTS)
        cleaned(store, now_us() + ANNOUNCED_FOR_US)
        later = registry.keys(MANIFESTS)

    assert half_a_day_later == [written.key]
    assert later == []


async def test_many_pushes_announce_their_keys_in_one_transaction(registry: Registry) -> None:
    """The first push of a process announces the keys of the next ones too, and each push takes one of them."""
    async with registry.serving() as client:
        left = []
        for number in range(3):
            await push(client, "shop/app", f"v{number}", image(str(number)))
            with open_store(registry.settings) as store:
                dead = store.database.read_and_wait(lambda tx: blob_keys.dead(tx, now_us() + ANNOUNCED_FOR_US, 1000))
            left.append(len([key for key in dead if key.startswith(MANIFESTS)]))

    assert left == [KEYS_AT_ONCE - 1, KEYS_AT_ONCE - 2, KEYS_AT_ONCE - 3]


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST])
async def test_a_missing_object_that_is_not_written_leaves_nothing(
    registry: Registry, object_server: ObjectServer, fault: Fault
) -> None:
    """If the cleanup fails to write an object, or loses the answer, the next one writes it, and the former is deleted."""
    one = image("one")
    async with registry.serving() as client:
        await push(client, "shop/app", "v1", one)
    with open_store(registry.settings) as store:
        _blob_of(store.database, one, added=False)
    with faulty(object_server) as proxy:
        proxy.plan = on("PUT", f"/{MANIFESTS}", fault)
        s3 = registry.settings.storage.s3.model_copy(update={"endpoint": proxy.endpoint})
        storage = registry.settings.storage.model_copy(update={"s3": s3})
        with open_store(registry.settings.model_copy(update={"storage": storage})) as store, pytest.raises(Unavailable):
            cleaned(store, now_us())
    with open_store(registry.settings) as store:
        cleaned(store, now_us())
        cleaned(store, now_us() + ANNOUNCED_FOR_US)

    assert stated(registry) == [(one.digest, frozenset({Digest.parse(one.blobs[0].digest)}))]


def _push_row(tx: UnitOfWork, document: Document, written: WrittenObject, *, with_blob: bool) -> None:
    """Do the transaction of a push, in which the repository also gets the last blob of the manifest."""
    number = queries.ensure_repository(tx, SHOP, CI)
    if with_blob:
        queries.add_blob(tx, number, document.blobs[-1].digest, len(document.blobs[-1].data), CI)
    digest = Digest.parse(document.digest)
    pushed = PushedManifest.of(parse_manifest(document.raw, document.media_type), digest)
    add_row(tx, number, ManifestPush(SHOP, pushed, (), Actor(CI)), tx.now_us)
    ObjectManifests.name(tx, number, document.digest, written)


@pytest.mark.parametrize("when", ["before the transaction", "after it"])
def test_a_part_that_comes_later_is_stated_by_the_next_cleanup(registry: Registry, when: str) -> None:
    """A manifest whose parts change after its object was written gets another object, and the former one is deleted."""
    one = image("one")
    prepare(registry.settings)
    with open_store(registry.settings) as store:
        written, early = written_by(store, one), when == "before the transaction"
        store.database.write_and_wait(partial(_push_row, document=one, written=written, with_blob=early))
        if not early:
            _blob_of(store.database, one, added=True)
        cleaned(store, now_us())
        with_blob = stated(registry)
        _blob_of(store.database, one, added=False)
        cleaned(store, now_us())
        without = stated(registry)

    assert written.parts == frozenset()
    assert with_blob == [(one.digest, frozenset({Digest.parse(one.blobs[-1].digest)}))]
    assert without == [(one.digest, frozenset())]


def _blob_of(database: Metadata, document: Document, *, added: bool) -> None:
    """Add the last blob of a manifest to the repository, or remove it."""

    def job(tx: UnitOfWork) -> None:
        number, blob = queries.ensure_repository(tx, SHOP, CI), document.blobs[-1]
        if added:
            queries.add_blob(tx, number, blob.digest, len(blob.data), CI)
        else:
            queries.remove_blob(tx, number, blob.digest)

    database.write_and_wait(job)


def test_an_object_that_was_announced_long_ago_is_not_named(registry: Registry) -> None:
    """A push that was stopped for half a day stores its manifest, but no row names its object, which may be deleted soon."""
    one, clock = image("one"), LateClock()
    prepare(registry.settings)
    with open_store(registry.settings, clock=clock) as store:
        written = written_by(store, one)
        clock.after_us = ANNOUNCED_FOR_US // 2
        store.database.write_and_wait(partial(_push_row, document=one, written=written, with_blob=False))
        cleaned(store, clock())
        between = registry.keys(MANIFESTS)
        clock.after_us = ANNOUNCED_FOR_US
        cleaned(store, clock())

    assert written.key in between
    assert len(between) == 2
    assert stated(registry) == [(one.digest, frozenset())]
    assert registry.keys(MANIFESTS) != [written.key]


def test_the_cleanup_reads_one_manifest_at_a_time(registry: Registry) -> None:
    """However many large manifests lost their objects, the memory of the server does not grow with their number."""
    prepare(registry.settings)
    with open_store(registry.settings) as store:
        store.database.write_and_wait(_add_large)
        tracemalloc.start()
        try:
            cleaned(store, now_us())
            highest = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert len(registry.keys(MANIFESTS)) == LARGE
    assert highest < LARGE * LARGE_BYTES / 2


def _add_large(tx: UnitOfWork) -> None:
    """Add many large manifests that have no object."""
    number = queries.ensure_repository(tx, SHOP, CI)
    for content in range(LARGE):
        document = image(str(content))
        raw = document.raw.ljust(LARGE_BYTES)
        pushed = PushedManifest.of(parse_manifest(raw, document.media_type), Digest.of(raw))
        add_row(tx, number, ManifestPush(SHOP, pushed, (), Actor(CI)), tx.now_us)


class LateClock:
    """The time of a server, `after_us` later than it is."""

    after_us = 0

    def __call__(self) -> int:
        """Return microseconds since the epoch."""
        return now_us() + self.after_us


def _counts(database: Metadata) -> tuple[int, int, int]:
    """Return how many rows name objects of manifests, dead objects, and parts that changed."""
    tables = ("manifest_object", "dead_key", "changed_part")
    query = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)  # noqa: S608 - constants
    named, dead, changed = database.read_and_wait(lambda snapshot: snapshot.sql.plain(query).fetchone())
    return named, dead, changed


def test_a_part_of_many_manifests_changes_in_one_row(registry: Registry) -> None:
    """A blob that 250 manifests refer to comes and goes by one row, fsck finds nothing, and the next cleanup writes all objects again."""
    documents = [image("one", annotations={"number": str(number)}) for number in range(250)]
    blob = documents[0].blobs[-1].digest
    prepare(registry.settings)
    with open_store(registry.settings) as store:
        for document in documents:
            _blob_of(store.database, document, added=False)
            written = written_by(store, document)
            store.database.write_and_wait(partial(_push_row, document=document, written=written, with_blob=False))
        before = _counts(store.database)
        for added in (True, False, True):
            _blob_of(store.database, documents[0], added=added)
        between = _counts(store.database)
    found = examine_store(registry.settings, lambda *_: None).findings
    with open_store(registry.settings) as store:
        cleaned(store, now_us())
        after = _counts(store.database)

    assert (before[0], before[2]) == (250, 0)
    assert between == (250, before[1], 1)
    assert [finding for finding in found if finding.what.startswith(MANIFESTS)] == []
    assert (after[0], after[2]) == (250, 0)
    assert {parts for _, parts in stated(registry)} == {frozenset({Digest.parse(blob)})}
