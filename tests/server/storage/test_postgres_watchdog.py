"""The thread that ends statements on PostgreSQL which take too long, when it can't send its request."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from boltseal.server.storage.metadata.postgres_watchdog import Watchdog
from tests.storage_servers import Postgres

_FILES = 256


def test_a_process_without_file_descriptors_does_not_wait_for_ever(postgres_server: Postgres) -> None:
    """A request to cancel that finds a socket and nothing more is given up, and the next statement gets its time."""
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        watchdog = Watchdog(connection)
        with _one_file_left():
            watchdog.set(0.05)
            with suppress(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(0.5)")
        ended = threading.Thread(target=watchdog.set, args=(None,), daemon=True)
        ended.start()
        ended.join(10)

        assert not ended.is_alive()
        watchdog.close()


@contextmanager
def _one_file_left() -> Iterator[None]:
    """Let this process open one file only inside the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, before[1]))
    opened: list[int] = []
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        os.close(opened.pop())
        yield
    finally:
        for each in opened:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
