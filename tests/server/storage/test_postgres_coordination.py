"""The coordination of processes on a PostgreSQL that is killed, hangs, can't be reached, or is behind a pooler."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from boltseal.server.storage.coordination.database_generation import DatabaseGeneration
from boltseal.server.storage.coordination.interprocess_lock import LockUnusable
from boltseal.server.storage.coordination.lock_session import SILENT_S, BehindPooler
from boltseal.server.storage.coordination.postgres_leases import PostgresLeases
from boltseal.server.storage.coordination.postgres_lock import PostgresInterprocessLock
from boltseal.server.storage.coordination.protocol import Lease, Leases
from tests.coordination_stores import PostgresStore, change, confirmed, create_tables, holder
from tests.pgbouncer import pgbouncer
from tests.polling import until, wait_until
from tests.ports import free_port
from tests.storage_servers import Postgres, postgres


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A PostgreSQL that the test may end."""
    with postgres() as server:
        yield server


@pytest.fixture
def own_store(own_server: Postgres) -> PostgresStore:
    """A store on a PostgreSQL that the test may end."""
    create_tables(own_server.url("postgres"))
    return PostgresStore(own_server.url("postgres"))


async def test_a_killed_database_ends_leases_and_locks_and_later_gives_new_ones(
    own_server: Postgres, own_store: PostgresStore
) -> None:
    """After kill -9 of PostgreSQL a lease is lost and no number is trusted; after its restart a lease has a higher epoch."""
    leases, other, lock, generation = (
        own_store.open_leases(),
        own_store.open_leases(),
        own_store.open_lock(),
        own_store.open_generation(),
    )
    lease = leases.acquire("work")
    assert lease is not None
    async with lock.taken("tag", 0):
        await asyncio.to_thread(own_server.kill)
        lost = not lease.held()
        await until(lambda: generation.read() % 2 == 1, "no number is trusted", 5)
        with pytest.raises(LockUnusable):
            leases.acquire("work")
        with pytest.raises(LockUnusable):
            async with lock.taken("other", 0):
                pass
        await asyncio.to_thread(own_server.start)
        again = await until(lambda: acquired(other), "PostgreSQL answers", 30)
    async with lock.taken("tag", 5):
        pass
    await until(lambda: generation.read() % 2 == 0, "the number is trusted again", 10)

    assert lost
    assert again is not None
    assert again.epoch > lease.epoch
    assert not lease.held()
    assert leases.acquire("work") is None
    for each in (leases, other, lock, generation):
        await asyncio.to_thread(each.close)


def acquired(leases: Leases) -> Lease | None:
    with suppress(LockUnusable):
        return leases.acquire("work")
    return None


def test_a_database_that_hangs_ends_a_lease_within_seconds(own_server: Postgres, own_store: PostgresStore) -> None:
    """A server that does not answer may have given the lease to another process, so it counts as lost."""
    leases = own_store.open_leases()
    lease = leases.acquire("work")
    assert lease is not None
    children = Path(f"/proc/{own_server.pid}/task/{own_server.pid}/children").read_text().split()
    pids = [own_server.pid, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    held = lease.held()
    seconds = time.monotonic() - began_s
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    leases.close()

    assert not held
    assert seconds < 5


def test_another_process_gets_the_lease_of_one_that_is_stopped(own_store: PostgresStore) -> None:
    """A holder that is stopped by SIGSTOP loses its lease when the server has heard nothing of it for a while."""
    leases = own_store.open_leases()
    with holder("lease", own_store) as process:
        before = leases.acquire("work")
        process.send_signal(signal.SIGSTOP)
        lease = wait_until(lambda: leases.acquire("work"), "the lease is free", 3 * SILENT_S)
        process.send_signal(signal.SIGCONT)
    leases.close()

    assert before is None
    assert lease is not None
    assert lease.epoch > 1


def test_the_next_holder_waits_for_a_transaction_that_confirmed_the_lease(
    own_server: Postgres, own_store: PostgresStore
) -> None:
    """A transaction that confirmed its lease ends before another process gets the lease, though the session is lost meanwhile."""
    one, other = own_store.open_leases(), own_store.open_leases()
    lease = one.acquire("work")
    assert lease is not None
    taken = threading.Event()

    def take() -> None:
        if acquired(other) is not None:
            taken.set()

    with own_store.transaction() as statements:
        lease.confirm(statements)
        own_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'boltseal-coordination'"
        )
        thread = threading.Thread(target=take)
        thread.start()
        overtook = taken.wait(0.5)
    thread.join(10)
    leases_lost = not lease.held()
    for each in (one, other):
        each.close()

    assert not overtook
    assert taken.is_set()
    assert leases_lost


async def test_a_pooler_is_refused_for_locks_and_used_for_the_generation(
    own_server: Postgres, own_store: PostgresStore
) -> None:
    """Behind pgbouncer, which gives each transaction another connection, no lock is given; the error names the setting."""
    with pgbouncer(own_server) as address:
        with pytest.raises(BehindPooler, match="database_direct"):
            PostgresLeases(address).acquire("work")
        with pytest.raises(BehindPooler, match="database_direct"):
            async with PostgresInterprocessLock(address).taken("tag", 0):
                pass
        generation = DatabaseGeneration(address)
        before = confirmed(generation)
        change(generation, own_store.transaction())
        after = confirmed(generation)
        generation.close()

    assert after > before


def test_an_unreachable_database_gives_no_lease_and_its_password_is_not_shown() -> None:
    """If no database answers, the lease is refused by an error that does not contain the password."""
    with pytest.raises(LockUnusable, match="can't be reached") as refused:
        PostgresLeases(f"postgresql://ann:very-secret@127.0.0.1:{free_port()}/d").acquire("work")

    assert "very-secret" not in str(refused.value)
