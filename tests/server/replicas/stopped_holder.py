"""A process that has a lease, stops itself right before a write of its work, and is continued when another one has the lease.

It is forked, so the caller must have no threads then, or else spawned.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any, Final, Literal

from boltseal.client.state import ClientState
from boltseal.errors import Unavailable
from boltseal.notify.outbox import LogCursor, Posting
from boltseal.project.bases.rebuild_journal import JournalLine, RebuildOutcome
from boltseal.server.maintenance import _tidy_up
from boltseal.server.notifications.database_outbox import DatabaseOutbox
from boltseal.server.rebuilds import RebuildScheduler
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.requested_rebuilds import RebuildRows
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.factory import open_leases
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.garbage_collection import correct_usage
from boltseal.server.storage.metadata.write_queue import WaitingJob
from boltseal.server.store_factory import begin, now_us
from tests.bare_registry import BareRegistry, Clock
from tests.polling import wait_until

TEN_DAYS_US: Final = 10 * 86_400_000_000
DONE, LOST = "done", "lost"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process. `answers`: what it reports: "before" the write, then DONE or LOST."""

    pid: int
    answers: Connection

    def wait_stopped(self) -> None:
        """Wait until the process has stopped itself."""
        assert self.answers.poll(60), "the write was not reached"
        assert self.answers.recv() == "before"
        status = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "the holder is stopped")

    def go_on(self) -> str:
        """Continue the process, and return what became of its write."""
        os.kill(self.pid, signal.SIGCONT)
        return self.result()

    def result(self) -> str:
        """Return what became of the work."""
        assert self.answers.poll(60), "the work did not end"
        found: str = self.answers.recv()
        return found


@contextmanager
def holder(
    settings: Settings, work: str, before: str | None, method: Literal["fork", "spawn"] = "fork"
) -> Iterator[Holder]:
    """Run a process that does some work. `before`: the function whose write it stops before; None: it does not stop.

    `method`: "spawn" in a test that has used an object store, whose client has threads that a forked process lacks.
    """
    context: ForkContext | SpawnContext = SpawnContext() if method == "spawn" else ForkContext()
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(settings, work, before, sending))
    process.start()
    sending.close()
    assert process.pid is not None
    try:
        yield Holder(process.pid, receiving)
    finally:
        if process.is_alive():
            os.kill(process.pid, signal.SIGCONT)
        process.join(30)
        process.kill()
        receiving.close()


def _run(settings: Settings, work: str, before: str | None, answers: Connection) -> None:
    store = begin(settings, now_us)
    leases = open_leases(settings.server.data, settings.storage)
    if before is not None:
        WORK[work].prepare(store)
        _stop_before(store, before, answers)
    try:
        WORK[work].do(store, leases, settings)
    except Unavailable:  # LeaseLost, or a comparison with what another process has done
        answers.send(LOST)
    else:
        answers.send(DONE)
    leases.close()
    store.close()


def _stop_before(store: OpenStore, function: str, answers: Connection) -> None:
    """Let the first write that a function asks for wait until the process is continued."""
    database: Any = store.database
    write, write_and_wait = database.write, database.write_and_wait
    done: list[str] = []

    def stop(job: Any) -> None:
        if not done and WaitingJob(job, bool, print).name == function:
            done.append(function)
            answers.send("before")
            os.kill(os.getpid(), signal.SIGSTOP)

    async def stopping(job: Any, **more: Any) -> Any:
        stop(job)
        return await write(job, **more)

    def stopping_and_wait(job: Any, **more: Any) -> Any:
        stop(job)
        return write_and_wait(job, **more)

    database.write, database.write_and_wait = stopping, stopping_and_wait


def _nothing(_: OpenStore) -> None:
    """Prepare nothing."""


def _put_event(store: OpenStore) -> None:
    DatabaseOutbox(store.database, FileLeases(store.data)).put(
        [Posting("event", store.database.now_us(), b"{}", ("receiver",))]
    )


def _push_unused_blob(store: OpenStore) -> None:
    asyncio.run(_shop(store).blob(b"no image needs this"))


def _push_image(store: OpenStore) -> None:
    async def push() -> None:
        shop = _shop(store)
        await shop.push(await shop.image("one"), "1.0.0")

    asyncio.run(push())


def _falsify_total(store: OpenStore) -> None:
    _push_unused_blob(store)
    store.database.write_and_wait(
        lambda tx: tx.sql.plain("INSERT INTO usage (holder, size, repositories) VALUES ('ann', 7, 0)")
    )


def _clean_up(store: OpenStore, leases: Leases, settings: Settings) -> None:
    _tidy_up(store, leases, settings, store.database.now_us() + TEN_DAYS_US)


def _deliver(store: OpenStore, leases: Leases, _: Settings) -> None:
    deliveries = DatabaseOutbox(store.database, leases).claim()
    assert deliveries is not None
    deliveries.delivered("receiver", "event")


def _read_log(store: OpenStore, leases: Leases, _: Settings) -> None:
    outbox = DatabaseOutbox(store.database, leases)
    assert outbox.claim() is not None
    outbox.put((), LogCursor("ledger", 7))


def _correct(store: OpenStore, leases: Leases, _: Settings) -> None:
    correct_usage(store.database, leases)


def _sign(store: OpenStore, _: Leases, __: Settings) -> None:
    store.integrator.integrate()


def _request_rebuild(store: OpenStore, leases: Leases, settings: Settings) -> None:
    scheduler = RebuildScheduler(settings, store, leases, now_us, lambda _: None)
    assert scheduler._has_lease()
    asyncio.run(scheduler._confirm())


def _record_request(store: OpenStore, leases: Leases, settings: Settings) -> None:
    lease = leases.acquire("rebuilds")
    assert lease is not None
    line = JournalLine(1, "registry.example.com/shop/app:1.0.0", "base:1", "sha256:0", RebuildOutcome.ASKED)
    RebuildRows(store.database, lease, ClientState(settings.server.data / "outdated")).append(line)


def _shop(store: OpenStore) -> BareRegistry:
    return BareRegistry(store.registry, store.database, store.blobs, Clock())


@dataclass(frozen=True, slots=True)
class Work:
    """Work under a lease. `prepare`: gives it something to do."""

    lease: str
    prepare: Callable[[OpenStore], None]
    do: Callable[[OpenStore, Leases, Settings], None]


WORK: Final = {
    "expire events": Work("tidy-up", _put_event, _clean_up),
    "collect garbage": Work("tidy-up", _push_unused_blob, _clean_up),
    "correct totals": Work("totals", _falsify_total, _correct),
    "deliver events": Work("outbox", _put_event, _deliver),
    "read the log": Work("outbox", _nothing, _read_log),
    "sign": Work("", _push_image, _sign),
    "request a rebuild": Work("rebuilds", _nothing, _request_rebuild),
    "record a rebuild": Work("rebuilds", _nothing, _record_request),
}
