"""Coordination after a lost commit, a lost connection, or without a free file descriptor: nothing is trusted too long, and nothing ends for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest

from boltseal.server.storage.coordination.database_generation import DatabaseGeneration
from boltseal.server.storage.coordination.protocol import LeaseLost
from boltseal.server.storage.coordination.replica_rows import BEAT_S, Serving
from boltseal.server.storage.metadata.migrate import HEAD_REVISION
from tests.coordination_stores import PostgresStore, confirmed, create_tables
from tests.polling import wait_until
from tests.server.replicas.partition import Partition, partition
from tests.storage_servers import Postgres, postgres

pytestmark = pytest.mark.real

STALE_S = 20.0
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'boltseal%' AND datname = current_database()
"""
WITHOUT_DESCRIPTORS = f"""
import os, resource, sys, time
import psycopg
from boltseal.errors import Unavailable
from boltseal.server.storage.coordination.database_generation import DatabaseGeneration
from boltseal.server.storage.coordination.postgres_leases import PostgresLeases
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.postgres import open_database
from boltseal.server.storage_settings import DatabaseUrl
from tests.coordination_stores import confirmed

def outcome(ask):
    try:
        ask()
    except Unavailable:
        return
    except Exception as error:
        print(repr(error), file=sys.stderr)

address = sys.argv[1]
generation, leases = DatabaseGeneration(address), PostgresLeases(address)
database = open_database(DatabaseUrl(address), generation)
database.read_and_wait(ledger_store.size)
other = psycopg.connect(address, autocommit=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for free in range(4):
    confirmed(generation)
    taken = []
    while True:
        try:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    for _ in range(free):
        os.close(taken.pop())
    other.execute({END_SESSIONS!r})
    time.sleep(1)
    outcome(lambda: database.write_and_wait(lambda tx: None))
    outcome(lambda: leases.acquire("work"))
    for each in taken:
        os.close(each)
database.write_and_wait(lambda tx: None)
print("lease", leases.acquire("later") is not None)
print("generation", confirmed(generation) % 2)
leases.close()
database.close()
"""


@pytest.fixture
def address(new_database: Callable[[], str]) -> str:
    """A database with the schema."""
    return new_database()


def through(way: Partition, address: str) -> str:
    return f"{address.rpartition('@')[0]}@127.0.0.1:{way.port}/{address.rpartition('/')[2]}"


def execute(address: str, statement: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize("left", ["UPDATE lease SET epoch = epoch - 1", "DELETE FROM lease"])
def test_a_database_that_was_set_back_gives_no_epoch_a_second_time(address: str, left: str) -> None:
    """The holder of before a failover that lost its epoch cannot write beside the holder of after it."""
    store = PostgresStore(address)
    with closing(store.open_leases()) as one, closing(store.open_leases()) as other:
        before = one.acquire("work")
        assert before is not None
        execute(address, END_SESSIONS)
        execute(address, left)  # as on a standby that lacks the commit
        after = other.acquire("work")
        assert after is not None
        with store.transaction() as statements:
            after.confirm(statements)
            with pytest.raises(LeaseLost):
                before.confirm(statements)


def test_a_process_without_a_free_descriptor_connects_again_later(address: str) -> None:
    """While all file descriptors are used, whichever step of a connection needs one, changes and leases are unavailable; then all goes on."""
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS, address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert result.stderr == ""
    assert result.stdout.splitlines()[-2:] == ["lease True", "generation 0"]


def test_confirmations_do_not_wait_for_a_standby_after_a_new_connection() -> None:
    """A commit that waits for a standby that is gone blocks changes, and not the caches of a process that has connected again."""
    with postgres() as server:
        address = server.url("postgres")
        create_tables(address)
        with closing(DatabaseGeneration(address, Serving(STALE_S, "1.2.3", HEAD_REVISION))) as serving:
            first = confirmed(serving)
            execute(address, END_SESSIONS)
            wait_until(lambda: serving.read() not in {first, first | 1}, "the process has connected again")
            confirmed(serving)
            execute(address, "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
            execute(address, "SELECT pg_reload_conf()")
            before = beat(address)
            wait_until(lambda: beat(address) > before + 1, "the row is confirmed", 5 * BEAT_S)

            stale = serving.stale()
            assert stale is None or not stale.failed
            execute(address, "ALTER SYSTEM SET synchronous_standby_names = ''")
            execute(address, "SELECT pg_reload_conf()")


def beat(address: str) -> int:
    with psycopg.connect(address) as connection:
        row = connection.execute("SELECT beat FROM replica").fetchone()
    return 0 if row is None else int(row[0])


def test_a_change_waits_for_the_longest_serve_stale_when_the_database_is_gone(
    address: str, postgres_server: Postgres
) -> None:
    """A process whose own `serve_stale` is short, and that loses the database right after its COMMIT, waits as long as another one states."""
    with (
        partition(postgres_server.port) as way,
        partition(postgres_server.port) as other_way,
        closing(DatabaseGeneration(through(way, address), Serving(STALE_S, "1.2.3", HEAD_REVISION))) as lonely,
        closing(DatabaseGeneration(through(other_way, address), stale_s=0.0)) as writer,
    ):
        confirmed(lonely)
        wait_until(lambda: beat(address) > 0, "the process has a row")
        way.cut()
        with PostgresStore(address).transaction() as statements:
            writer.begin(statements)
        other_way.cut()
        wait = writer.end()
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        stale = lonely.stale()
        other_way.heal()
        way.heal()

    assert stale is not None
    assert stale.left_s == 0
