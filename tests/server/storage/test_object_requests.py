"""How many requests to the S3 server a client's request waits for, and how many a signature takes: more cost time and money."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.object_maintenance import DELETED_AT_ONCE
from boltseal.server.storage.garbage_collection import GarbageItem, collect
from boltseal.server.storage.object_manifests import WRITTEN_AT_ONCE
from boltseal.server.store_factory import open_store, prepare
from tests.images import Blob, image, push, push_blob, put
from tests.object_faults import FaultyServer, faulty, kind_of, no_fault
from tests.polling import LIMIT_S, until, until_signed
from tests.server.storage.breaking_proxy import BreakingProxy, breaking_proxy
from tests.serving import Serving, serving_as
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

REPOSITORY = "shop/app"
MANY = 1_000_000
DAY_US = 24 * 3600 * 1_000_000
ANY_COMMIT, DURABLE_COMMIT = b"COMMIT\0", b"; COMMIT\0"


@pytest.fixture
def proxy(object_server: ObjectServer) -> Iterator[FaultyServer]:
    """A proxy in front of the S3 server, which counts."""
    with faulty(object_server) as running:
        yield running


@pytest.fixture
def commits(postgres_server: Postgres) -> Iterator[BreakingProxy]:
    """A proxy in front of PostgreSQL, which counts transactions that were committed: `passes` says how many fewer may come."""
    with breaking_proxy(postgres_server.port) as running:
        running.statement, running.breaks, running.passes = ANY_COMMIT, "before", MANY
        yield running


@pytest.fixture
def settings(
    tmp_path: Path,
    postgres_server: Postgres,
    commits: BreakingProxy,
    schema_template: str,
    proxy: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """The settings of a registry whose database and objects are behind the proxies."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    name = postgres_server.create_database(schema_template)
    storage = {
        "database": f"postgresql://boltseal@127.0.0.1:{commits.port}/{name}",
        "blobs": f"s3://{BUCKET}/{name}",
        "s3": {"endpoint": proxy.endpoint},
        "mark": {"single_replica": True},
    }
    settings = Settings.model_validate({"server": {"data": tmp_path / "data"}, "storage": storage})
    prepare(settings)  # so that the registry owns the bucket
    return settings


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[Serving]:
    """A registry with these settings."""
    async with serving_as(settings) as running:
        yield running


async def requests_of(proxy: FaultyServer, work: Awaitable[object]) -> Counter[str]:
    """Return the requests to the S3 server while a request is answered, without those of signatures."""
    counted: Counter[str] = Counter()

    def plan(method: str, path: str) -> None:
        counted[kind_of(method, path)] += 1

    proxy.plan = plan
    await work
    proxy.plan = no_fault
    return Counter({kind: count for kind, count in counted.items() if not is_of_signature(kind)})


def is_of_signature(kind: str) -> bool:
    """Return whether a request is one for the tiles or the checkpoint of a log, or for the owner object before them."""
    return kind.endswith((" ledger", " observations", " checkpoint", " owner"))


async def test_a_push_waits_for_no_more_requests_than_it_has_objects(registry: Serving, proxy: FaultyServer) -> None:
    """A blob is two objects, written at the same time. A manifest is one, written while its config is read; one that is there is none."""
    client, document = registry.client, image("an image", layer_count=2)
    layer = document.layers[0]
    blob = await requests_of(proxy, push_blob(client, REPOSITORY, layer))
    await push(client, REPOSITORY, "other", document)
    other = image("another image", layer_count=1)
    await push_blob(client, REPOSITORY, other.config)
    await push_blob(client, REPOSITORY, other.layers[0])
    manifest = await requests_of(proxy, put(client, REPOSITORY, "1.0.0", other))
    again = await requests_of(proxy, put(client, REPOSITORY, "1.0.1", other))
    empty = await requests_of(proxy, push_blob(client, REPOSITORY, Blob(b"")))

    assert blob == {"PUT blobs": 1, "PUT index": 1}
    assert manifest == {"GET blobs": 1, "PUT manifests": 1}
    assert again == {"GET blobs": 1}
    assert empty == {"PUT index": 1}


async def test_a_blob_waits_for_four_transactions_and_twice_for_the_disk(
    registry: Serving, commits: BreakingProxy
) -> None:
    """POST adds the session durably and its progress; PUT becomes its writer, and then commits blob, objects and session at once, durably."""
    client = registry.client

    async def counted(work: Awaitable[httpx2.Response], statement: bytes) -> tuple[int, httpx2.Response]:
        commits.statement, commits.passes = statement, MANY
        answer = await work
        return MANY - commits.passes, answer

    found = []
    for number in range(3):  # the least of three: background work may commit meanwhile
        blob, other = Blob(b"blob %d" % number), Blob(b"other %d" % number)
        post, session = await counted(client.post(f"/v2/{REPOSITORY}/blobs/uploads/"), ANY_COMMIT)
        where = session.headers["location"]
        put_blob, done = await counted(client.put(where, params={"digest": blob.digest}, content=blob.data), ANY_COMMIT)
        durable, _ = await counted(push_blob(client, REPOSITORY, other), DURABLE_COMMIT)
        assert done.status_code == 201
        found.append((post, put_blob, durable))

    assert tuple(map(min, zip(*found, strict=True))) == (2, 2, 2)


async def test_a_pull_asks_the_s3_server_only_for_the_bytes(registry: Serving, proxy: FaultyServer) -> None:
    """Manifests and tags come from the database, a blob's GET is one request, and its HEAD none."""
    client, document = registry.client, image("an image")
    await push(client, REPOSITORY, "1.0.0", document)
    base = f"/v2/{REPOSITORY}"
    blob = f"{base}/blobs/{document.layers[0].digest}"
    asked = [f"{base}/manifests/1.0.0", f"{base}/manifests/{document.digest}", f"{base}/tags/list"]
    of_rows = [await requests_of(proxy, client.get(path)) for path in asked]

    assert of_rows == [{}] * len(asked)
    assert await requests_of(proxy, client.get(blob)) == {"GET blobs": 1}
    assert await requests_of(proxy, client.head(blob)) == {}


async def test_a_signature_writes_a_tile_a_bundle_and_the_checkpoint(registry: Serving, proxy: FaultyServer) -> None:
    """One push alone has its own signature, with one partial tile and one bundle, after the head was stated in the owner object."""
    client, document = registry.client, image("an image")
    counted: Counter[str] = Counter()

    def plan(method: str, path: str) -> None:
        counted[kind_of(method, path)] += is_of_signature(kind_of(method, path))

    proxy.plan = plan
    first = await push(client, REPOSITORY, "1.0.0", document)
    await until_signed(client, int(first.headers["boltseal-ledger-index"]) + 1)
    await until(lambda: counted["PUT checkpoint"] == 1, "the first checkpoint is published")
    counted.clear()
    second = await put(client, REPOSITORY, "1.0.1", document)
    await until_signed(client, int(second.headers["boltseal-ledger-index"]) + 1)
    await until(lambda: counted["PUT checkpoint"] == 1, "the second checkpoint is published")

    assert +counted == {"PUT owner": 1, "PUT ledger": 2, "PUT checkpoint": 1}


async def test_a_cleanup_deletes_several_blobs_at_once(
    settings: Settings, registry: Serving, proxy: FaultyServer
) -> None:
    """As many deletions as may wait for the S3 server at the same time do. The two objects of a blob go in one request."""
    contents = [f"blob {number}".encode() for number in range(2 * DELETED_AT_ONCE)]
    for content in contents:
        blob = Blob(content)
        await push_blob(registry.client, REPOSITORY, blob)
        assert (await registry.client.delete(f"/v2/{REPOSITORY}/blobs/{blob.digest}")).status_code == 202
    together, requests = threading.Barrier(DELETED_AT_ONCE), list[str]()

    def plan(method: str, path: str) -> None:
        if method == "POST" and "?delete" in path:
            together.wait(LIMIT_S)  # if fewer come, it breaks, and the request gets no answer
            requests.append(path)

    def clean() -> list[GarbageItem]:
        with open_store(settings) as store:
            blobs, later_us = store.blobs, store.database.now_us() + 2 * DAY_US
            return list(collect(store.database, blobs.maintenance, blobs.upload_cleanup, later_us, dry_run=False))

    proxy.plan = plan
    items = await asyncio.to_thread(clean)

    assert [item.what for item in items] == ["blob"] * len(contents)
    assert len(requests) == len(contents)


async def test_a_cleanup_writes_several_objects_of_manifests_at_once(
    settings: Settings, registry: Serving, proxy: FaultyServer
) -> None:
    """Missing objects of manifests are written as many at once as may, and one transaction names those of a page."""
    for number in range(2 * WRITTEN_AT_ONCE):
        assert (await push(registry.client, REPOSITORY, f"1.0.{number}", image(f"{number}"))).status_code == 201
    together, requests = threading.Barrier(WRITTEN_AT_ONCE), list[str]()

    def plan(method: str, path: str) -> None:
        if method == "PUT" and "/manifests/" in path:
            together.wait(LIMIT_S)
            requests.append(path)

    def write() -> int:
        with open_store(settings) as store:
            store.database.write_and_wait(lambda tx: tx.sql.plain("DELETE FROM manifest_object"))
            proxy.plan = plan
            assert store.blobs.upkeep is not None
            return store.blobs.upkeep.run(store.database.now_us())

    written = await asyncio.to_thread(write)

    assert written == len(requests) == 2 * WRITTEN_AT_ONCE
