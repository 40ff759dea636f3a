"""The stores on which the coordination of processes is tested, and processes that hold something of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import create_engine

from boltseal.server.storage.coordination.database_generation import DatabaseGeneration
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock
from boltseal.server.storage.coordination.postgres_leases import PostgresLeases
from boltseal.server.storage.coordination.postgres_lock import PostgresInterprocessLock
from boltseal.server.storage.coordination.protocol import (
    FoundRow,
    Generation,
    InterprocessLock,
    Leases,
    Statements,
)
from boltseal.server.storage.metadata.schema import METADATA
from tests.fakes.statements import NoStatements
from tests.polling import wait_until

TABLES = ("generation", "lease", "replica", "schema_support")
PROCESS = """
import asyncio, sys, time
from pathlib import Path
from tests.coordination_stores import store_of

async def lock(store):
    async with store.open_lock().taken("tag", 0):
        print("taken", flush=True)
        await asyncio.sleep(60)  # until it is killed

def lease(store):
    lease = store.open_leases().acquire("work")
    print(lease.epoch, flush=True)
    time.sleep(60)  # until it is killed

def generation(store):
    writer = store.open_generation()
    with store.transaction() as statements:
        writer.begin(statements)
        print("begun", flush=True)
        time.sleep(60)  # until it is killed

store = store_of(sys.argv[2])
asyncio.run(lock(store)) if sys.argv[1] == "lock" else {"lease": lease, "generation": generation}[sys.argv[1]](store)
"""


@dataclass(frozen=True, slots=True)
class FileStore:
    """The coordination of the processes that share a folder."""

    place: str

    def open_generation(self) -> Generation:
        return FileGeneration.open(Path(self.place) / "generation")

    def open_lock(self) -> InterprocessLock:
        return FileInterprocessLock(Path(self.place))

    def open_leases(self) -> Leases:
        return FileLeases(Path(self.place))

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        yield NoStatements()


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """The coordination of the processes that share a database."""

    place: str

    def open_generation(self) -> Generation:
        return DatabaseGeneration(self.place)

    def open_lock(self) -> InterprocessLock:
        return PostgresInterprocessLock(self.place)

    def open_leases(self) -> Leases:
        return PostgresLeases(self.place)

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Commit at the end of the block."""
        with psycopg.connect(self.place) as connection:
            yield Plain(connection)


@dataclass(frozen=True, slots=True)
class Plain:
    """The statements of a connection of psycopg."""

    connection: psycopg.Connection

    def plain(self, statement: str, values: Sequence[object] = (), /) -> FoundRow:
        return self.connection.execute(statement.replace("?", "%s").encode(), values)


def store_of(place: str) -> FileStore | PostgresStore:
    """Return the store at an address or in a folder."""
    return PostgresStore(place) if place.startswith("postgresql:") else FileStore(place)


def create_tables(address: str) -> None:
    """Create the tables of the coordination."""
    engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
    METADATA.create_all(engine, tables=[METADATA.tables[each] for each in TABLES])
    engine.dispose()


@contextmanager
def holder(kind: str, store: FileStore | PostgresStore) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds something; wait until it does, and kill it at the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", PROCESS, kind, store.place], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def confirmed(generation: Generation) -> int:
    """Return the number when it is even, which takes a moment where a database is asked for it."""
    seen: list[int] = []

    def is_even() -> bool:
        seen.append(generation.read())
        return seen[-1] % 2 == 0

    wait_until(is_even, "the number is confirmed")
    return seen[-1]


def change(generation: Generation, transaction: AbstractContextManager[Statements]) -> None:
    """Commit a transaction that takes something away."""
    with transaction as statements:
        generation.begin(statements)
    ended(generation)


def ended(generation: Generation) -> None:
    """End a change, and wait until no process uses what it cached before."""
    wait = generation.end()
    if wait is not None:
        wait()
