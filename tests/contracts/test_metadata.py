"""What every metadata database promises (`boltseal.server.storage.metadata.protocol`), checked on each implementation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from boltseal.errors import NotFound, Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.coordination.protocol import LeaseLost
from boltseal.server.storage.metadata import (
    account_table,
    failed_login_table,
    foreign_tags,
    ledger_store,
    name_lists,
    queries,
    tag_table,
    unreferenced,
    upload_table,
    upstream_table,
)
from boltseal.server.storage.metadata.database import SqlMetadata
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import (
    LEDGER,
    NO_PAUSE,
    AccountRow,
    BlobFound,
    FailedLoginRow,
    ForeignTagRow,
    Metadata,
    Snapshot,
    UnitOfWork,
    UpstreamPause,
    WriteQueue,
)
from boltseal.server.storage.metadata.sqlite import SqliteDriver, SqliteSession
from boltseal.server.storage.metadata.tag_row import TagRow
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.coordination_stores import confirmed

NOW_US = 1_000_000
DIGEST = Digest.of(b"a")
Opener = Callable[[], Metadata]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def open_metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Open the database of this test; a second object acts as another process."""
    storage = StorageSettings()
    if request.param == "postgres":
        storage = StorageSettings(database=DatabaseUrl(request.getfixturevalue("new_database")()))
    data = tmp_path / "data"
    metadata_factory.prepare_metadata(data, storage)
    opened: list[Metadata] = []

    def open_() -> Metadata:
        opened.append(metadata_factory.open_metadata(data, storage, lambda: NOW_US))
        return opened[-1]

    yield open_
    for metadata in opened:
        metadata.close()


@pytest.fixture
def metadata(open_metadata: Opener) -> Metadata:
    return open_metadata()


def add(name: str, tx: UnitOfWork, *, fail: bool = False) -> str:
    """Create a repository."""
    queries.ensure_repository(tx, f"test/{name}", None)
    if fail:
        raise NotFound(f"{name} was refused")
    return name


def names_in(snapshot: Snapshot) -> list[str]:
    """Return the names of all repositories."""
    return sorted(name.removeprefix("test/") for name, _ in name_lists.repositories_below(snapshot, "test/"))


def names(metadata: Metadata) -> list[str]:
    return metadata.read_and_wait(names_in)


def take_away(tx: UnitOfWork) -> None:
    tx.invalidates_caches = True


async def test_a_job_that_returns_is_committed(open_metadata: Opener) -> None:
    """When a job returns, every reader of every process sees its result."""
    metadata, other = open_metadata(), open_metadata()
    returned = await metadata.write(partial(add, "a"))

    assert returned == "a"
    assert names(metadata) == ["a"]
    assert names(other) == ["a"]


async def test_a_write_under_a_lost_lease_changes_nothing(metadata: Metadata, tmp_path: Path) -> None:
    """Inside a fenced block each write confirms the lease in its transaction; writes of other threads and later ones do not."""
    lease = FileLeases(tmp_path).acquire("work")
    assert lease is not None
    with fenced(metadata, lease):
        metadata.write_and_wait(partial(add, "a"))
        lease.release()
        with pytest.raises(LeaseLost):
            metadata.write_and_wait(partial(add, "refused"))
        with pytest.raises(LeaseLost):
            await metadata.write(partial(add, "refused"))
        with pytest.raises(LeaseLost):
            await asyncio.to_thread(metadata.write_and_wait, partial(add, "refused"))
        beside = await asyncio.get_running_loop().run_in_executor(None, metadata.write_and_wait, partial(add, "b"))
    metadata.write_and_wait(partial(add, "c"))

    assert beside == "b"
    assert names(metadata) == ["a", "b", "c"]


def test_a_caller_without_an_event_loop_gets_the_result(metadata: Metadata) -> None:
    """`write_and_wait` and `read_and_wait` work in a thread without an event loop."""
    assert metadata.write_and_wait(partial(add, "a")) == "a"
    assert names(metadata) == ["a"]


async def test_a_job_that_raises_changes_nothing_and_does_not_affect_its_group(metadata: Metadata) -> None:
    """Of jobs that are committed together, only the failed one is rolled back."""
    results = await asyncio.gather(
        *(metadata.write(partial(add, f"r{n:02}", fail=n % 3 == 0)) for n in range(30)), return_exceptions=True
    )

    assert [isinstance(result, NotFound) for result in results] == [n % 3 == 0 for n in range(30)]
    assert names(metadata) == [f"r{n:02}" for n in range(30) if n % 3]


async def test_jobs_run_in_order(metadata: Metadata) -> None:
    """Jobs run in the order in which they were queued, and see the changes of earlier ones."""

    def job(name: str, tx: UnitOfWork) -> int:
        add(name, tx)
        return len(names_in(tx))

    seen = await asyncio.gather(*(metadata.write(partial(job, f"{n:02}")) for n in range(40)))

    assert seen == list(range(1, 41))


async def test_a_job_whose_caller_gave_up_is_not_run(metadata: Metadata) -> None:
    """A queued job whose caller gave up is not run."""
    begun, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_: UnitOfWork) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    first = asyncio.create_task(metadata.write(slow))
    await begun.wait()
    second = asyncio.create_task(metadata.write(partial(add, "late")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    release.set()
    await first
    await metadata.write(partial(add, "next"))

    assert names(metadata) == ["next"]


async def test_the_write_queue_has_the_jobs_that_are_not_committed_yet(metadata: Metadata) -> None:
    """The write queue reports the number of uncommitted jobs and the oldest's time, and is empty after the result."""
    release = threading.Event()

    def slow(_: UnitOfWork) -> None:
        release.wait()

    before = metadata.write_queue
    jobs = [asyncio.create_task(metadata.write(job)) for job in (slow, partial(add, "next"), partial(add, "last"))]
    await asyncio.sleep(0.05)  # the age of the oldest job grows
    during = metadata.write_queue
    release.set()
    await asyncio.gather(*jobs)
    with pytest.raises(ZeroDivisionError):
        await metadata.write(lambda _: 1 // 0)

    assert before == metadata.write_queue == WriteQueue(0, 0.0)
    assert during.jobs == 3
    assert 0.04 < during.oldest_wait_s < 60


async def test_a_defect_in_a_job_reaches_its_caller_and_the_writer_continues(metadata: Metadata) -> None:
    """An unexpected exception in a job is rolled back and raised unchanged, and the writer continues."""

    def broken(_: UnitOfWork) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await metadata.write(broken)
    await metadata.write(partial(add, "after"))

    assert names(metadata) == ["after"]


async def test_a_rolled_back_block_is_undone(metadata: Metadata) -> None:
    """A block of `rolled_back` restores rows and the state of the unit of work."""

    def job(tx: UnitOfWork) -> tuple[list[str], bool]:
        add("kept", tx)
        with tx.rolled_back():
            add("tried", tx)
            tx.invalidates_caches = True
        return names_in(tx), tx.invalidates_caches

    assert await metadata.write(job) == (["kept"], False)
    assert names(metadata) == ["kept"]


async def test_a_read_sees_one_snapshot(open_metadata: Opener) -> None:
    """Later queries of one read do not see a commit that happened meanwhile."""
    metadata, other = open_metadata(), open_metadata()
    await metadata.write(partial(add, "before"))
    committed = threading.Event()
    began = threading.Event()

    def query(snapshot: Snapshot) -> tuple[list[str], list[str]]:
        first = names_in(snapshot)
        began.set()
        assert committed.wait(10)
        return first, names_in(snapshot)

    reading = asyncio.create_task(metadata.read(query))
    await asyncio.to_thread(began.wait, 10)
    await other.write(partial(add, "during"))
    committed.set()

    assert await reading == (["before"], ["before"])
    assert names(metadata) == ["before", "during"]


async def test_writers_of_two_processes_exclude_each_other(open_metadata: Opener) -> None:
    """Concurrent appends of two processes take each index once and lose none."""
    one, two = open_metadata(), open_metadata()
    await one.write(lambda tx: ledger_store.start(tx, "registry.test"))

    def append(tx: UnitOfWork) -> int:
        head = ledger_store.lock_head(tx)
        assert head is not None
        ledger_store.append(
            tx, head.size, time_us=NOW_US, kind="tag.created", repository="a", tag="b", line=b"%d" % head.size
        )
        return head.size

    indices = await asyncio.gather(*(writer.write(append) for _ in range(60) for writer in (one, two)))
    lines = two.read_and_wait(lambda snapshot: list(ledger_store.lines(snapshot)))

    assert sorted(indices) == list(range(120))
    assert [tuple(line) for line in lines] == [(index, b"%d" % index) for index in range(120)]


async def test_an_entry_without_a_locked_head_is_a_defect(metadata: Metadata) -> None:
    """An entry whose index is not the next one is never written."""
    await metadata.write(lambda tx: ledger_store.start(tx, "registry.test"))

    def append(tx: UnitOfWork) -> None:
        ledger_store.append(tx, 1, time_us=NOW_US, kind="tag.created", repository="a", tag="b", line=b"", log=LEDGER)

    with pytest.raises(AssertionError, match="entry 1 is not the next one"):
        await metadata.write(append)
    assert metadata.read_and_wait(lambda snapshot: list(ledger_store.lines(snapshot))) == []


async def test_a_locked_row_is_the_row_itself(metadata: Metadata) -> None:
    """Functions that lock a row return the same row as those that do not."""
    row = TagRow(digest=DIGEST, canonical=DIGEST, media_type="m", entry_index=0, changed_us=1, changed_by="a")

    def job(tx: UnitOfWork) -> tuple[object, ...]:
        number = queries.ensure_repository(tx, "test/app", None)
        absent = tag_table.lock_tag(tx, number, "1.0")
        tag_table.add(tx, number, "1.0", row)
        return (
            absent,
            queries.lock_repository(tx, "test/app") == number,
            queries.lock_repository(tx, "test/none"),
            tag_table.lock_tag(tx, number, "1.0") == tag_table.find(tx, number, "1.0") == row,
        )

    assert await metadata.write(job) == (None, True, None, True)


async def test_lookups_see_the_last_commit(open_metadata: Opener) -> None:
    """A pull that begins after an acknowledged push of any process finds it."""
    metadata, other = open_metadata(), open_metadata()
    before = await other.lookups.content.repository("test/app")

    def job(tx: UnitOfWork) -> None:
        number = queries.ensure_repository(tx, "test/app", None)
        queries.add_blob(tx, number, "sha256:1", 5, "a")

    await metadata.write(job)

    assert not before
    assert await other.lookups.content.repository("test/app")
    assert await other.lookups.content.blob("test/app", "sha256:1") == BlobFound(5, hidden=False)
    assert await other.lookups.content.blob("test/other", "sha256:1") is None
    assert await other.lookups.content.tag("test/app", "1.0") is None
    assert await other.lookups.uploads.released("sha256:1") is None


async def test_lookups_of_upstreams_see_the_last_commit(open_metadata: Opener) -> None:
    """A tag of an upstream and the pause of an upstream are seen by every process after the COMMIT."""
    metadata, other = open_metadata(), open_metadata()
    before = (
        await other.lookups.upstreams.foreign_tag("up/app", "1"),
        await other.lookups.upstreams.upstream_pause("up"),
    )
    row = ForeignTagRow("sha256:1", "a/b", 5, None, None, None, None, None, NOW_US, 0, 0, 0)
    pause = UpstreamPause(NOW_US + 1, 0, "too many requests")

    def job(tx: UnitOfWork) -> None:
        foreign_tags.put(tx, "up/app", "1", row)
        upstream_table.put_pause(tx, "up", pause)

    await metadata.write(job)

    assert before == (None, NO_PAUSE)
    assert await other.lookups.upstreams.foreign_tag("up/app", "1") == row
    assert await other.lookups.upstreams.upstream_pause("up") == pause


async def test_lookups_of_logins_see_the_last_commit(open_metadata: Opener) -> None:
    """Users and failed logins are seen by every process after the COMMIT, and each change of users gives another version."""
    metadata, other = open_metadata(), open_metadata()
    failures = FailedLoginRow(3, NOW_US)
    versions = [await other.lookups.logins.account_version()]

    def job(tx: UnitOfWork) -> None:
        account_table.put(tx, "ann", "one")
        failed_login_table.put(tx, "192.0.2.1", failures, forget_before_us=0, most=10)

    for change in (job, lambda tx: account_table.put(tx, "ann", "two")):
        await metadata.write(change)
        versions.append(await other.lookups.logins.account_version())

    assert len(set(versions)) == 3
    assert await other.lookups.logins.accounts() == [AccountRow("ann", "two")]
    assert await other.lookups.logins.failed_login("192.0.2.1") == failures
    assert await other.lookups.logins.failed_login("192.0.2.2") is None


async def test_bytes_that_are_released_again_have_another_time(metadata: Metadata) -> None:
    """Each release of bytes has a different time, even within one microsecond; referenced bytes are not released."""

    def job(tx: UnitOfWork) -> tuple[bool, bool, bool]:
        number = queries.ensure_repository(tx, "test/app", None)
        queries.add_blob(tx, number, "sha256:1", 5, "a")
        named = unreferenced.release_again(tx, "sha256:1")
        queries.remove_blob(tx, number, "sha256:1")
        first = unreferenced.released_since(tx, "sha256:1")
        again = unreferenced.release_again(tx, "sha256:1")
        return named, again, unreferenced.released_since(tx, "sha256:1") != first

    assert await metadata.write(job) == (False, True, True)


async def test_a_commit_that_need_not_be_durable_is_visible_to_every_process(open_metadata: Opener) -> None:
    """A commit without fsync is visible to every process, atomic and in order, alone or in a group with durable ones."""
    metadata, other = open_metadata(), open_metadata()
    await metadata.write(partial(add, "a"), durable=False)
    alone = names(other)
    await asyncio.gather(*(metadata.write(partial(add, f"b{n}"), durable=n % 2 == 0) for n in range(4)))
    with pytest.raises(NotFound):
        await metadata.write(partial(add, "c", fail=True), durable=False)

    assert alone == ["a"]
    assert names(other) == ["a", "b0", "b1", "b2", "b3"]


async def test_the_owner_of_an_upload_session_is_seen_by_every_process(open_metadata: Opener) -> None:
    """In the repository in which the session began, until it ends."""
    metadata, other = open_metadata(), open_metadata()
    await metadata.write(lambda tx: upload_table.add(tx, "u1", "test/app", "ann"), durable=False)
    found = (
        await other.lookups.uploads.upload_owner("test/app", "u1"),
        await other.lookups.uploads.upload_owner("test/other", "u1"),
    )
    await metadata.write(lambda tx: upload_table.remove(tx, "u1"))

    assert found == ("ann", None)
    assert await other.lookups.uploads.upload_owner("test/app", "u1") is None


async def test_open_uploads_are_counted_for_their_owner_until_they_expire(open_metadata: Opener) -> None:
    """Open uploads are counted per owner over repositories and processes, without ended and expired ones."""
    metadata, other = open_metadata(), open_metadata()

    def begin(tx: UnitOfWork) -> None:
        for number in range(3):
            upload_table.add(tx, f"id{number}", f"test/{number}", "ci")
        upload_table.add(tx, "id3", "test/0", "ana")

    await metadata.write(begin, durable=False)
    both = [await other.write(partial(upload_table.count_of, owner=owner)) for owner in ("ci", "ana")]
    await metadata.write(partial(upload_table.remove, id_="id0"))
    await metadata.write(partial(upload_table.remove, id_="none"))
    await metadata.write(lambda tx: upload_table.extend(tx, "id1", NOW_US))
    left = await other.write(partial(upload_table.count_of, owner="ci"))

    assert both == [3, 1]
    assert left == 1


async def test_removals_change_the_generation_for_every_process(open_metadata: Opener) -> None:
    """Removals change the generation for every process; additions do not."""
    one, two = open_metadata(), open_metadata()
    before = await asyncio.to_thread(confirmed, two.generation)
    await one.write(partial(add, "a"))
    unchanged = await asyncio.to_thread(confirmed, two.generation)
    await one.write(take_away)

    assert unchanged == before
    assert two.generation.read() not in (before, before + 1)
    assert two.generation.read() % 2 == 0


async def test_a_rolled_back_removal_does_not_change_the_generation(metadata: Metadata) -> None:
    """A rolled-back removal does not change the generation."""

    def refused(tx: UnitOfWork) -> None:
        tx.invalidates_caches = True
        raise NotFound("no")

    before = metadata.generation.read()
    with pytest.raises(NotFound):
        await metadata.write(refused)

    assert metadata.generation.read() == before


async def test_appended_entries_are_announced_after_the_commit(metadata: Metadata) -> None:
    """After a commit, the log's callback finds the new entries; a failed job announces nothing."""
    await metadata.write(lambda tx: ledger_store.start(tx, "registry.test"))
    announced: list[list[str]] = []
    metadata.after_append[LEDGER.name] = lambda: announced.append(names(metadata))

    def job(tx: UnitOfWork, *, fail: bool) -> None:
        add("app", tx)
        tx.appended.add(LEDGER.name)
        if fail:
            raise NotFound("no")

    with pytest.raises(NotFound):
        await metadata.write(partial(job, fail=True))
    await metadata.write(partial(job, fail=False))

    assert announced == [["app"]]


async def test_writes_after_close_are_refused(open_metadata: Opener) -> None:
    """After close, writes are refused; closing twice has no effect."""
    metadata = open_metadata()
    metadata.close()
    metadata.close()

    with pytest.raises(Unavailable):
        await metadata.write(partial(add, "a"))


class LosingSession(SqliteSession):
    """A session whose next COMMIT fails, either before it is done or after, without an answer."""

    lose: str | None = None

    def commit(self) -> None:
        lose, self.lose = self.lose, None
        if lose == "before":
            raise Unavailable("the connection broke")
        super().commit()
        if lose == "after":
            raise Unavailable("the connection broke")


class LosingDriver(SqliteDriver):
    """A driver that opens such sessions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sessions: list[LosingSession] = []

    def connect(self) -> LosingSession:
        self.sessions.append(LosingSession(self._engine))
        return self.sessions[-1]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_failed_commit_may_be_repeated(when: str, tmp_path: Path) -> None:
    """After a COMMIT that failed or whose answer was lost, the caller gets an error, and a repetition leaves one
    change."""
    prepare_data(tmp_path)
    driver = LosingDriver(tmp_path / DATABASE_NAME)
    metadata = SqlMetadata(driver, FileGeneration.open(tmp_path / GENERATION_NAME), lambda: NOW_US)

    def job(tx: UnitOfWork) -> int:
        tx.invalidates_caches = True
        return queries.ensure_repository(tx, "test/app", None)

    await metadata.write(take_away)
    before = metadata.generation.read()
    for session in driver.sessions:
        session.lose = when
    with pytest.raises(Unavailable):
        await metadata.write(job)
    for session in driver.sessions:
        session.lose = None
    after = metadata.generation.read()
    left = names(metadata)
    await metadata.write(job)

    assert left == ([] if when == "before" else ["app"])
    assert names(metadata) == ["app"]
    assert after != before
    assert after % 2 == 0
    metadata.close()


async def test_a_closed_database_is_unavailable(metadata: Metadata) -> None:
    """A request that outlives its server gets the error of a server that ends, and no defect, from reads and writes alike."""
    metadata.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await metadata.read(lambda _: None)
    with pytest.raises(Unavailable, match="shutting down"):
        await asyncio.to_thread(metadata.read_and_wait, lambda _: None)
    with pytest.raises(Unavailable, match="shutting down"):
        await metadata.write(lambda _: None)
