"""A rebuild that is killed at any step is continued, and excludes servers, garbage collections and the former server."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import obstore
import pytest

from boltseal.errors import Unavailable
from boltseal.server.commands.rebuild import rebuild_store
from boltseal.server.registry.rebuilt_logs import RebuildRefused
from boltseal.server.storage.bucket_owner import BucketTaken, RebuildUnfinished
from boltseal.server.storage.garbage_collection import collect_reviewed
from boltseal.server.storage.metadata import blob_reviews, bucket_rows
from boltseal.server.storage.metadata.blob_reviews import BYTES, Review
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.store_factory import collect_store, open_metadata, open_store, prepare
from tests.object_faults import Fault, faulty
from tests.server.commands.killed_command import context
from tests.server.commands.moving import AWS
from tests.server.registry.lost_registry import RULES, Registry, filled, registry_on
from tests.server.registry.rebuilder import rebuild
from tests.storage_servers import ACCESS_KEY, SECRET_KEY, ObjectServer

STEPS = ["ledger (compared)", "ledger", "blobs", "manifests", "tags"]
DAY_US = 24 * 3600 * 1_000_000


@pytest.fixture(params=["sqlite"])
def registry(
    request: pytest.FixtureRequest, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """An empty registry with its blobs on the S3 server, below a prefix of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    new_database = request.getfixturevalue("new_database") if request.param == "postgresql" else None
    return registry_on(object_server, tmp_path / "data", new_database)


def killed_at(registry: Registry, step: str) -> None:
    """Rebuild in a process that kills itself at a step."""
    where = registry.settings.storage
    storage: dict[str, object] = {"blobs": str(where.blobs), "s3": {"endpoint": where.s3.endpoint}}
    if where.database is not None:
        storage |= {"database": where.database.with_password, "mark": {"single_replica": True}}
    settings = json.dumps({"server": {"data": str(registry.data)}, "storage": storage, "rule": RULES})
    process = context().Process(target=rebuild, args=(settings, step, AWS))
    process.start()
    process.join()

    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("registry", ["sqlite", "postgresql"], indirect=True)
async def test_a_rebuild_that_is_killed_at_each_step_is_continued(registry: Registry) -> None:
    """A process is killed (SIGKILL) at each step, and in the last transaction; until the last one no server starts, and nothing is deleted."""
    before = await filled(registry)
    registry.lose_database()
    for step in STEPS:
        killed_at(registry, step)
        with pytest.raises(RebuildUnfinished, match="--rebuild"):
            prepare(registry.settings)
        with pytest.raises(RebuildUnfinished, match="nothing is deleted"):
            list(collect_store(registry.settings, dry_run=False, full=True))
    result = rebuild_store(registry.settings, lambda *_: None)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert (result.findings, result.examined.findings) == ((), ())
    assert {path: after[path] for path in before} == before


async def test_a_server_that_is_connected_to_a_database_under_rebuild_takes_no_push(registry: Registry) -> None:
    """Until the last transaction the database has fewer entries than were signed, whatever else was restored."""
    await filled(registry)
    registry.lose_database()
    killed_at(registry, "tags")
    with open_store(registry.settings) as store:
        restored = next(iter(store.blobs.maintenance.walk()), None)
        frozen = store.database.frozen

    assert restored is not None
    assert frozen is not None
    assert "signed" in frozen


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.TORN, Fault.LOST])
async def test_a_rebuild_whose_new_owner_is_not_written_is_continued(
    registry: Registry, object_server: ObjectServer, fault: Fault
) -> None:
    """If the owner object can't be replaced, or the answer is lost, the rebuild fails, and the next one goes on."""
    before = await filled(registry)
    registry.lose_database()
    with faulty(object_server) as proxy:
        proxy.plan = lambda method, path: (
            fault if method == "PUT" and path.partition("?")[0].endswith("/owner") else None
        )
        s3 = registry.settings.storage.s3.model_copy(update={"endpoint": proxy.endpoint})
        storage = registry.settings.storage.model_copy(update={"s3": s3})
        with pytest.raises(Unavailable):
            rebuild_store(registry.settings.model_copy(update={"storage": storage}), lambda *_: None)
    result = rebuild_store(registry.settings, lambda *_: None)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert result.findings == ()
    assert {path: after[path] for path in before} == before


async def test_a_collection_that_runs_when_a_rebuild_begins_deletes_nothing(registry: Registry) -> None:
    """A collection that decided before the rebuild began, and deletes after it, is refused in the transaction that would delete."""
    await filled(registry)
    with open_store(registry.settings) as store:
        before = set(registry.keys(""))
        [stored, *_] = store.blobs.maintenance.walk()

        def begin(tx: UnitOfWork) -> None:
            known = bucket_rows.owner(tx)
            assert known is not None
            bucket_rows.put_owner(tx, known._replace(rebuilding=True))

        def forget_rows(tx: UnitOfWork) -> None:
            tx.sql.plain("DELETE FROM blob")
            blob_reviews.add_found(tx, [Review(str(stored.digest), BYTES, 1)])

        store.database.write_and_wait(forget_rows)
        store.database.write_and_wait(begin)
        upkeep = store.blobs.upkeep
        assert upkeep is not None
        later_us = store.database.now_us() + 3 * DAY_US
        with pytest.raises(RebuildUnfinished):
            list(collect_reviewed(store.database, store.blobs.maintenance, later_us))
        with pytest.raises(RebuildUnfinished):
            upkeep.discard(["blobs/" + "0" * 32])

        assert set(registry.keys("")) == before


async def test_a_refused_rebuild_leaves_the_database_and_the_owner_as_they_were(registry: Registry) -> None:
    """A rebuild that the bucket does not allow leaves an empty database, on which it is repeated, and the owner of the bucket."""
    await filled(registry)
    owner = registry.content("owner")
    bundles = {key: registry.content(key) for key in registry.keys("ledger/") if "entries" in key}
    obstore.delete(registry.bucket, sorted(bundles))
    registry.lose_database()
    with pytest.raises(RebuildRefused):
        rebuild_store(registry.settings, lambda *_: None)
    with open_metadata(registry.settings) as database:
        left = database.read_and_wait(bucket_rows.owner), database.read_and_wait(bucket_rows.is_empty)

    assert left == (None, True)
    assert registry.content("owner") == owner


async def test_the_former_server_deletes_nothing_after_a_rebuild(registry: Registry, tmp_path: Path) -> None:
    """A server that still works on the lost database starts no more, and neither deletes objects that are due nor sweeps others."""
    before = await filled(registry)
    former = registry.settings
    moved = former.model_copy(update={"server": former.server.model_copy(update={"data": tmp_path / "new"})})
    with open_store(former) as store:
        store.database.write_and_wait(_all_is_dead)
        (tmp_path / "data.keys").rename(tmp_path / "new.keys")
        registry.settings = moved
        rebuild_store(moved, lambda *_: None)
        upkeep, stored = store.blobs.upkeep, next(iter(store.blobs.maintenance.walk()))
        assert upkeep is not None
        with pytest.raises(BucketTaken):
            upkeep.run(store.database.now_us())
        with pytest.raises(BucketTaken):
            store.blobs.maintenance.delete(stored)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert {path: after[path] for path in before} == before


def _all_is_dead(tx: UnitOfWork) -> None:
    """Mark every object of a blob dead, as a server that got deletes for all of them."""
    tx.sql.plain("INSERT INTO dead_key (key, due_us) SELECT key, 0 FROM blob_key WHERE true ON CONFLICT DO NOTHING")
