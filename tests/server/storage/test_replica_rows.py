"""Rows of serving processes: nothing is acknowledged while a process may answer from a cache of before, however it is cut off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from boltseal.errors import Unavailable
from boltseal.server.storage.coordination.database_generation import PER_CONNECTION, DatabaseGeneration
from boltseal.server.storage.coordination.protocol import Stale, Wait
from boltseal.server.storage.coordination.replica_rows import BEAT_S, MARGIN_S, Serving
from boltseal.server.storage.metadata.migrate import HEAD_REVISION
from tests.coordination_stores import PostgresStore, confirmed
from tests.polling import wait_until
from tests.server.storage.breaking_proxy import BreakingProxy
from tests.storage_servers import Postgres

pytestmark = pytest.mark.real

STALE_S = 2.0
SERVING = Serving(STALE_S, "1.2.3", HEAD_REVISION)
LIMIT_S = STALE_S + MARGIN_S


@pytest.fixture
def address(new_database: Callable[[], str]) -> str:
    """A database with the schema."""
    return new_database()


@pytest.fixture
def cut(postgres_server: Postgres) -> Iterator[BreakingProxy]:
    """A way to the database that can be cut."""
    proxy = BreakingProxy(postgres_server.port)
    yield proxy
    proxy.close()


def through(proxy: BreakingProxy, address: str) -> str:
    return f"{address.rpartition('@')[0]}@127.0.0.1:{proxy.port}/{address.rpartition('/')[2]}"


def cut_off(proxy: BreakingProxy) -> None:
    """Break the connection at its next message, and refuse new ones."""
    proxy.statement = proxy.complete = b""
    proxy.refuses_after_break = True
    proxy.breaks = "before"
    wait_until(lambda: proxy.refuses, "the way to the database is cut")


def changed(writer: DatabaseGeneration, address: str) -> Wait:
    """Commit a change that takes something away, and return what waits for the others."""
    with PostgresStore(address).transaction() as statements:
        writer.begin(statements)
    return writer.end()


def rows(address: str) -> list[tuple[int, str, str]]:
    with psycopg.connect(address) as connection:
        return connection.execute("SELECT generation, version, revision FROM replica").fetchall()


def test_a_process_that_serves_has_a_row_until_it_ends(address: str) -> None:
    """The row states the generation, the version and the schema's revision, and goes with the process; a command has none."""
    with closing(DatabaseGeneration(address, SERVING)) as serving, closing(DatabaseGeneration(address)):
        number = confirmed(serving) % PER_CONNECTION
        wait_until(lambda: rows(address) == [(number, "1.2.3", HEAD_REVISION)], "the process has confirmed")
    after = rows(address)

    assert after == []


def test_a_change_waits_for_living_processes_a_moment(address: str) -> None:
    """Two processes confirm a change within a fraction of what a process without an answer would take."""
    with closing(DatabaseGeneration(address, SERVING)) as one, closing(DatabaseGeneration(address, SERVING)) as other:
        before = confirmed(one), confirmed(other)
        began_s = time.monotonic()
        changed(one, address)()
        seconds = time.monotonic() - began_s
        after = one.read(), other.read(), one.stale(), other.stale()

    assert seconds < LIMIT_S
    assert not {*before} & {*after}


def test_a_change_is_acknowledged_only_after_a_process_that_is_cut_off_has_stopped(
    address: str, cut: BreakingProxy
) -> None:
    """A process without the database sends stale content for a while; who takes something away waits for longer than that."""
    with (
        closing(DatabaseGeneration(through(cut, address), SERVING)) as lonely,
        closing(DatabaseGeneration(address)) as writer,
    ):
        before = confirmed(lonely)
        cut_off(cut)
        wait_until(lambda: lonely.stale() is not None, "the number is not confirmed")
        last = lonely.stale()
        wait = changed(writer, address)
        early = lonely.stale()
        wait()
        late = lonely.read(), lonely.stale()

    assert last is not None
    assert last.number == before
    assert last.left_s <= STALE_S
    assert early is not None
    assert early.left_s > 0
    assert late == (before | 1, Stale(before, 0.0, failed=True))


def test_nothing_is_served_stale_without_that_setting(address: str, cut: BreakingProxy) -> None:
    """With `serve_stale = "0s"` a process without the database answers nothing from its caches."""
    with closing(DatabaseGeneration(through(cut, address), Serving(0.0, "1.2.3", HEAD_REVISION))) as lonely:
        confirmed(lonely)
        cut_off(cut)
        wait_until(lambda: lonely.read() % 2 == 1, "the number is not confirmed")

        stale = lonely.stale()

    assert stale is not None
    assert stale.left_s == 0


def test_the_row_of_a_killed_process_is_removed_by_another(address: str) -> None:
    """A process that ended without removing its row delays changes until another one has found out."""
    with closing(DatabaseGeneration(address, SERVING)) as serving:
        confirmed(serving)
        with psycopg.connect(address) as connection:
            connection.execute(
                "INSERT INTO replica (id, beat, generation, stale_ms, version, revision) VALUES ('dead', 7, 0, 2000, '1', '0016')"
            )
        began_s = time.monotonic()
        changed(serving, address)()
        seconds = time.monotonic() - began_s
        wait_until(lambda: len(rows(address)) == 1, "the row is removed", LIMIT_S + 5 * BEAT_S)

    assert seconds > LIMIT_S - 0.5


def test_a_process_whose_row_was_removed_begins_again(address: str) -> None:
    """A process that was taken for dead, such as one that was stopped, drops what it cached and gets a row again."""
    with closing(DatabaseGeneration(address, SERVING)) as serving:
        number = confirmed(serving)
        with psycopg.connect(address) as connection:
            connection.execute("DELETE FROM replica")
        stated = [number % PER_CONNECTION]
        wait_until(lambda: [row[0] for row in rows(address)] == stated, "the process has a row again", 4 * BEAT_S)
        again = confirmed(serving)

    assert again == number


def test_a_process_that_ends_while_it_waits_says_that_the_change_was_made(address: str) -> None:
    """The caller gets an error, since not all others have confirmed; the message does not state that nothing was changed."""
    with closing(DatabaseGeneration(address, SERVING)) as other:
        confirmed(other)
        writer = DatabaseGeneration(address)
        with psycopg.connect(address) as connection:
            connection.execute("UPDATE replica SET id = 'dead'")
            connection.execute(
                "INSERT INTO replica (id, beat, generation, stale_ms, version, revision) VALUES ('slow', 7, 0, 60000, '1', '0016')"
            )
        wait, raised = changed(writer, address), list[str]()

        def waiting() -> None:
            try:
                wait()
            except Unavailable as error:
                raised.append(error.message)

        thread = threading.Thread(target=waiting)
        thread.start()
        writer.close()
        thread.join(10)

    assert len(raised) == 1
    assert raised[0].startswith("the change was made")


def test_caches_of_before_a_reconnection_are_not_used(address: str, cut: BreakingProxy) -> None:
    """A database that was set back may reach the same number by another change, so each connection has numbers of its own."""
    with closing(DatabaseGeneration(through(cut, address), SERVING)) as serving:
        before = confirmed(serving)
        cut_off(cut)
        wait_until(lambda: serving.read() % 2 == 1, "the number is not confirmed")
        cut.refuses = False
        after = confirmed(serving)

    assert after % PER_CONNECTION == before % PER_CONNECTION
    assert after != before


def test_a_contraction_is_noticed_at_the_next_beat(address: str) -> None:
    """A server that read `schema_support` before a newer one contracted the schema refuses changes and caches soon after."""
    with closing(DatabaseGeneration(address, SERVING)) as serving:
        confirmed(serving)
        before = serving.refused
        with psycopg.connect(address) as connection:
            connection.execute("UPDATE schema_support SET oldest = '9998'")
        wait_until(lambda: serving.refused is not None, "the contraction is noticed", 4 * BEAT_S)

        assert before is None
        assert "start the newer boltseal here" in str(serving.refused)
        assert serving.read() % 2 == 1
