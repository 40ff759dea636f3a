"""Two registries never delete each other's objects: the owner object, its lost answers, prefixes inside prefixes, old buckets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_comparison import KEYS
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.bucket_owner import BucketOwner, BucketTaken, BucketUnfit, owner_now, take_over
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.metadata import blob_keys, bucket_rows
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.object_client import Bucket, ObjectClient
from tests.object_faults import Fault, faulty, no_fault, on
from tests.object_stores import ObjectStore, now_us, object_store
from tests.ports import free_port
from tests.server.storage.sessions import push
from tests.storage_servers import ObjectServer

DAY_US = 24 * 3600 * 1_000_000


@contextmanager
def database_in(data: Path) -> Iterator[Metadata]:
    """Open the database of a new or existing data folder."""
    prepare_data(data)
    database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, now_us)
    try:
        yield database
    finally:
        database.close()


def owner_of(database: Metadata, server: ObjectServer, prefix: str) -> BucketOwner:
    """Return the owner object of a prefix."""
    return BucketOwner(database, ObjectClient(server.store(prefix), BLOBS), f"s3://bucket/{prefix}")


def prefix_of(path: Path) -> str:
    """Return a prefix of this test's own."""
    return path.name.replace("_", "-")


def sweep(store: ObjectStore) -> int:
    """Delete, as two days later, what no row names."""
    upkeep = store.blobs.upkeep
    assert isinstance(upkeep, ObjectUpkeep)
    comparison = FullCollection(store.database, store.blobs.maintenance, upkeep, now_us() + 2 * DAY_US)
    found = sum(item.what == "object" for item in comparison.find_all(dry_run=False))
    upkeep.delete_dead(now_us() + 2 * DAY_US)
    return found


def keys_in(store: ObjectStore) -> set[str]:
    """Return the keys of all objects below the prefix."""
    return {each["path"] for page in obstore.list(store.bucket) for each in page}


def test_a_registry_claims_an_empty_prefix_and_starts_again(object_server: ObjectServer, tmp_path: Path) -> None:
    """The first start writes the owner object; later ones compare it, and it stays the same."""
    with database_in(tmp_path / "data") as database:
        owner = owner_of(database, object_server, prefix_of(tmp_path))
        owner.claim()
        first = owner.registry()
        owner.claim()
        owner.check()

        assert first is not None
        assert owner.registry() == first


def test_another_registry_is_refused(object_server: ObjectServer, tmp_path: Path) -> None:
    """A registry does not start on a prefix whose owner is another one; the message names both and what to do."""
    with database_in(tmp_path / "a") as one, database_in(tmp_path / "b") as other:
        owner_of(one, object_server, prefix_of(tmp_path)).claim()
        owner_of(other, object_server, f"{prefix_of(tmp_path)}-other").claim()
        with pytest.raises(
            BucketTaken, match=r"owner object of the registry [0-9a-f]{32}, and this registry is"
        ) as error:
            owner_of(other, object_server, prefix_of(tmp_path)).claim()

        with (
            database_in(tmp_path / "c") as new,
            pytest.raises(BucketTaken, match="this database never had a bucket") as lost,
        ):
            owner_of(new, object_server, prefix_of(tmp_path)).claim()

        assert "stop this one for good; if not, correct [storage] blobs" in error.value.message
        assert (
            "rebuild it with `boltseal admin fsck --rebuild`; for a new registry choose an empty prefix"
            in lost.value.message
        )
        assert "\n" not in error.value.message + lost.value.message


async def test_nothing_is_swept_after_the_owner_changed(object_server: ObjectServer, tmp_path: Path) -> None:
    """Objects without a row are not deleted while the owner object is another registry's, or missing."""
    with object_store(object_server, tmp_path / "data", prefix=prefix_of(tmp_path)) as store:
        obstore.put(store.bucket, f"blobs/{'0' * 32}", b"of another registry")
        own = bytes(obstore.get(store.bucket, "owner").bytes())
        obstore.put(store.bucket, "owner", b'{"format": 1, "registry": "%s"}' % (b"0" * 32))
        with pytest.raises(BucketTaken):
            sweep(store)
        obstore.delete(store.bucket, "owner")
        with pytest.raises(BucketTaken):
            sweep(store)
        left = keys_in(store)
        obstore.put(store.bucket, "owner", own)

        assert f"blobs/{'0' * 32}" in left
        assert sweep(store) == 1


@pytest.mark.parametrize("inner", ["y", "blobs", "manifests", "index", "index/sha256", "ledger", "blobs/" + "0" * 32])
async def test_a_prefix_inside_another_is_safe(object_server: ObjectServer, tmp_path: Path, inner: str) -> None:
    """Registries at s3://b/x and s3://b/x/y delete nothing of each other, whatever y is called."""
    prefix = prefix_of(tmp_path).replace("/", "-")
    with (
        object_store(object_server, tmp_path / "a", prefix=prefix) as outer,
        object_store(object_server, tmp_path / "b", prefix=f"{prefix}/{inner}") as nested,
    ):
        digests = [await push(outer.blobs, b"outer"), await push(nested.blobs, b"nested")]
        unnamed = [f"blobs/{'1' * 32}", f"manifests/{'2' * 32}", f"index/sha256/{'3' * 64}/{'4' * 32}"]
        for key in unnamed:
            obstore.put(nested.bucket, key, b"left by a killed process")
        before = keys_in(outer)
        swept = sweep(outer), sweep(nested)

        assert swept == (0, len(unnamed))
        assert keys_in(outer) == before - {f"{inner}/{key}" for key in unnamed}
        assert digests == [Digest.of(b"outer"), Digest.of(b"nested")]
        assert not any(KEYS.fullmatch(f"{inner}/{key}") for key in keys_in(nested) if KEYS.fullmatch(key))


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.TORN, Fault.LOST])
def test_a_claim_whose_write_fails_is_no_claim_or_a_whole_one(
    object_server: ObjectServer, tmp_path: Path, fault: Fault
) -> None:
    """If the owner object can't be written, or the answer is lost, the start fails or has claimed the prefix; the next one succeeds."""
    prefix = prefix_of(tmp_path)
    with faulty(object_server) as proxy, database_in(tmp_path / "data") as database:
        owner = BucketOwner(database, ObjectClient(proxy.store(prefix), BLOBS), "the bucket")
        proxy.plan = lambda method, path: fault if method == "PUT" and path.endswith("/owner") else None
        with pytest.raises(Unavailable):
            owner.claim()
        proxy.plan = on("nothing", "", fault)
        owner.claim()
        owner.check()
        known = database.read_and_wait(bucket_rows.owner)

        assert known is not None
        assert known.claimed


def test_one_lost_answer_is_looked_up(object_server: ObjectServer, tmp_path: Path) -> None:
    """A claim whose first answer is lost meets its own object, and succeeds."""
    faults = iter([Fault.LOST])
    with faulty(object_server) as proxy, database_in(tmp_path / "data") as database:
        owner = BucketOwner(database, ObjectClient(proxy.store(prefix_of(tmp_path)), BLOBS), "the bucket")
        proxy.plan = lambda method, path: (
            next(faults, None) if method == "PUT" and path.partition("?")[0].endswith("/owner") else None
        )
        owner.claim()
        owner.check()

    assert next(faults, None) is None


def put_owner(store: S3Store, registry: str) -> None:
    """Let a registry be the owner of a prefix."""
    obstore.put(store, "owner", json.dumps({"format": 1, "registry": registry}).encode())


@pytest.mark.parametrize("before", [None, "0" * 32])
def test_a_take_over_replaces_only_the_owner_that_it_saw(
    object_server: ObjectServer, tmp_path: Path, before: str | None
) -> None:
    """If another registry became the owner since the move or restore began, it stays the owner; otherwise the new one is."""
    bucket = object_server.store(prefix_of(tmp_path))
    client = ObjectClient(bucket, BLOBS)
    if before is not None:
        put_owner(bucket, before)
    seen = owner_now(client)
    put_owner(bucket, "1" * 32)
    with pytest.raises(BucketTaken, match="meanwhile"):
        take_over(client, "2" * 32, "the bucket", seen)
    kept = bytes(obstore.get(bucket, "owner").bytes())
    take_over(client, "2" * 32, "the bucket", owner_now(client))

    assert json.loads(kept)["registry"] == "1" * 32
    assert json.loads(bytes(obstore.get(bucket, "owner").bytes()))["registry"] == "2" * 32


def test_an_owner_that_is_gone_is_not_replaced(object_server: ObjectServer, tmp_path: Path) -> None:
    """If the owner object was deleted since the move began, the bucket may have been emptied: nothing is taken over."""
    bucket = object_server.store(prefix_of(tmp_path))
    client = ObjectClient(bucket, BLOBS)
    put_owner(bucket, "0" * 32)
    seen = owner_now(client)
    obstore.delete(bucket, "owner")
    with pytest.raises((BucketTaken, Unavailable)):
        take_over(client, "2" * 32, "the bucket", seen)

    assert owner_now(client) is None


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.TORN, Fault.LOST])
def test_a_take_over_whose_write_fails_is_repeated(object_server: ObjectServer, tmp_path: Path, fault: Fault) -> None:
    """A take-over that was not done, or was done and lost its answers, fails; a repetition by the same or another registry succeeds."""
    prefix = prefix_of(tmp_path)
    bucket = object_server.store(prefix)
    put_owner(bucket, "0" * 32)
    with faulty(object_server) as proxy:
        client = ObjectClient(proxy.store(prefix), BLOBS)
        proxy.plan = on("PUT", "/owner", fault)
        with pytest.raises(Unavailable):
            take_over(client, "2" * 32, "the bucket", owner_now(client))
        left = json.loads(bytes(obstore.get(bucket, "owner").bytes()))["registry"]
        proxy.plan = no_fault
        take_over(client, "3" * 32, "the bucket", owner_now(client))

    assert left == ("2" if fault is Fault.LOST else "0") * 32
    assert json.loads(bytes(obstore.get(bucket, "owner").bytes()))["registry"] == "3" * 32


def test_a_take_over_that_loses_one_answer_meets_itself(object_server: ObjectServer, tmp_path: Path) -> None:
    """If one answer is lost, the repeated request meets the object of the first one, and the take-over is done."""
    prefix, faults = prefix_of(tmp_path), iter([Fault.LOST])
    bucket = object_server.store(prefix)
    put_owner(bucket, "0" * 32)
    with faulty(object_server) as proxy:
        client = ObjectClient(proxy.store(prefix), BLOBS)
        proxy.plan = lambda method, path: next(faults, None) if method == "PUT" and "/owner" in path else None
        take_over(client, "2" * 32, "the bucket", owner_now(client))

    assert next(faults, None) is None
    assert json.loads(bytes(obstore.get(bucket, "owner").bytes()))["registry"] == "2" * 32


async def test_objects_that_are_due_stay_after_the_owner_changed(object_server: ObjectServer, tmp_path: Path) -> None:
    """A registry that lost the bucket deletes neither its dead objects nor the bytes of a blob: the new owner may name them."""
    with object_store(object_server, tmp_path / "data", prefix=prefix_of(tmp_path)) as store:
        one, two = await push(store.blobs, b"one"), await push(store.blobs, b"two")
        [dead, live] = [store.blobs.maintenance.look(each) for each in (one, two)]
        assert dead is not None
        assert live is not None
        store.database.write_and_wait(lambda tx: blob_keys.remove(tx, str(one), due_us=0))
        before = keys_in(store)
        put_owner(store.bucket, "1" * 32)
        with pytest.raises(BucketTaken):
            store.blobs.maintenance.delete(live)
        upkeep = store.blobs.upkeep
        assert upkeep is not None
        with pytest.raises(BucketTaken):
            upkeep.run(now_us())

        assert keys_in(store) == before
        assert await store.blobs.stat(two) is not None


async def test_an_old_bucket_is_claimed_if_a_row_names_an_object_of_it(
    object_server: ObjectServer, tmp_path: Path
) -> None:
    """A bucket without an owner object is accepted with the registry's own blobs in it, and refused with others'."""
    prefix = prefix_of(tmp_path)
    with object_store(object_server, tmp_path / "data", prefix=prefix) as store, database_in(tmp_path / "new") as new:
        await push(store.blobs, b"layer")
        obstore.delete(store.bucket, "owner")
        with pytest.raises(BucketTaken, match="no owner object"):
            owner_of(new, object_server, prefix).claim()
        owner_of(store.database, object_server, prefix).claim()
        owner_of(store.database, object_server, prefix).check()


def test_without_a_bucket_only_a_registry_that_had_it_starts(object_server: ObjectServer, tmp_path: Path) -> None:
    """If the S3 server does not answer, a registry that claimed its prefix starts, and a new one does not."""
    nowhere = Bucket("bucket", "", f"http://127.0.0.1:{free_port()}", "us-east-1", ("a", "b")).connect(BLOBS)
    with database_in(tmp_path / "a") as one, database_in(tmp_path / "b") as new:
        owner_of(one, object_server, prefix_of(tmp_path)).claim()
        BucketOwner(one, nowhere, "the bucket").claim()
        with pytest.raises(Unavailable):
            BucketOwner(one, nowhere, "the bucket").check()
        with pytest.raises(Unavailable):
            BucketOwner(new, nowhere, "the bucket").claim()


class Careless(BaseHTTPRequestHandler):
    """An S3 server that stores whatever it gets."""

    def do_PUT(self) -> None:
        """Accept an object without looking at the conditions."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_a_server_that_replaces_without_comparing_is_refused(tmp_path: Path) -> None:
    """A start refuses an S3 server for the blobs that ignores If-Match and If-None-Match."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    careless = Bucket("bucket", "", f"http://127.0.0.1:{server.server_port}", "us-east-1", ("a", "b")).connect(BLOBS)
    try:
        with database_in(tmp_path / "data") as database, pytest.raises(BucketUnfit, match="conditional writes"):
            BucketOwner(database, careless, "the bucket").claim()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


REQUESTS_OF_A_CLAIM = 6
"""Three to the probe, one that reads the owner object, one that lists the prefix, one that creates the owner object."""


@pytest.mark.parametrize("number", range(REQUESTS_OF_A_CLAIM))
def test_two_servers_claim_an_empty_prefix_at_once(object_server: ObjectServer, tmp_path: Path, number: int) -> None:
    """Whatever the first start of one server has done when another one's begins and ends: both have one ID."""
    asked: list[str] = []
    with (
        faulty(object_server) as proxy,
        database_in(tmp_path / "data") as one,
        database_in(tmp_path / "data") as other,
    ):
        slow = BucketOwner(one, ObjectClient(proxy.store(prefix_of(tmp_path)), BLOBS), "s3://bucket/prefix")
        fast = owner_of(other, object_server, prefix_of(tmp_path))

        def plan(method: str, path: str) -> None:
            asked.append(f"{method} {path}")
            if len(asked) == number + 1:
                fast.claim()

        proxy.plan = plan
        slow.claim()
        row = one.read_and_wait(bucket_rows.owner)
        slow.check()
        fast.check()

        assert len(asked) > number, asked
        assert row is not None
        assert (row.registry, row.claimed) == (slow.registry(), True)
