"""`python -m bench.postgres`: boltseal on PostgreSQL and S3 beside boltseal on SQLite and files, and beside an earlier revision.

A second table is that of `bench.object_store`, on the same PostgreSQL and S3 server. A list of the goals with the ratios ends the output.

PostgreSQL and SeaweedFS run as in the tests, with fsync. Manifest GETs by wrk on 32 connections, small pushes on 16. The servers run
on the first core, wrk on the second, and the others where the kernel puts them. Peers alternate within each round; a figure is the
median of the rounds. `worked` is the processor time of the server's processes for one request, which depends less on other
load; that of PostgreSQL is not in it. `queries` is the number of transactions that PostgreSQL counted, for one request.

`--before DIRECTORY` measures the sources of an earlier revision too, on SQLite and files, with the same libraries: embedded figures may
not become lower.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench import load, object_store
from bench.content import KIB, MANIFEST_TYPE, MIB, REPOSITORY, make_content
from bench.object_store import Compared
from bench.peers import LOAD_CORE, ON_SERVER_CORE, Readable, fill
from bench.shared_storage import LOGIN, config
from tests import servers
from tests.servers import Server
from tests.soak.processes import tree
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

SHARED, EMBEDDED, BEFORE = "PostgreSQL and S3", "SQLite and files", "SQLite and files, before"
SMALL_CONNECTIONS = 16
LARGE_PUSHES = 3
GOALS: Mapping[str, float] = {"manifest GET, sealed tag": 0.9, "manifest GET, mutable tag": 0.3}
"""What PostgreSQL and S3 must reach of the rate of SQLite and files."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one round of one peer gave. `worked_us`: processor time for each; `queries`: for each, None without PostgreSQL."""

    per_second: float
    worked_us: float
    queries: float | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A running boltseal with the content. `database`: the address of its PostgreSQL database, None with SQLite."""

    readable: Readable
    database: str | None = None

    @property
    def server(self) -> Server:
        """The running server."""
        return self.readable.server

    def measured(self, run: Callable[[], float], count_of: Callable[[float, float], float]) -> Taken:
        """Run a load, and return its rate with what each request cost. `count_of`: the number of requests by rate and time."""
        worked, queries, started = worked_s(self.server.pid), self._queries(), time.perf_counter()
        rate = run()
        elapsed = time.perf_counter() - started
        count = max(1.0, count_of(rate, elapsed))
        asked = self._queries()
        return Taken(
            rate,
            (worked_s(self.server.pid) - worked) / count * 1e6,
            None if asked is None or queries is None else (asked - queries) / count,
        )

    def _queries(self) -> int | None:
        if self.database is None:
            return None
        time.sleep(1.2)  # PostgreSQL's processes report once a second
        with psycopg.connect(self.database, autocommit=True) as connection:
            row = connection.execute(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])


def worked_s(pid: int) -> float:
    """Return the processor time of a process and its descendants so far, those included that have ended."""
    ticks = 0
    for process in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.postgres", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier revision")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="rows whose name has one of these words in it")
    given = parser.parse_args()
    every_core = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="bench-postgres-") as scratch, contextlib.ExitStack() as stack:
        database, objects = stack.enter_context(postgres()), stack.enter_context(seaweedfs())
        os.sched_setaffinity(0, {LOAD_CORE})  # for processes that are started from here on
        peers = {EMBEDDED: stack.enter_context(_embedded(Path(scratch) / "now"))}
        if given.before is not None:
            peers[BEFORE] = stack.enter_context(
                _embedded(Path(scratch) / "before", {"PYTHONPATH": str(given.before.resolve() / "src")})
            )
        peers[SHARED] = stack.enter_context(_shared(Path(scratch) / "shared", database, objects))
        print(f"load: {os.getloadavg()[0]:.0f}, {given.rounds} rounds\n")
        print(f"| | {' | '.join(peers)} |\n| --- |{' ---: |' * len(peers)}")
        rows = {
            name: _row(name, take, peers, given.rounds, given.seconds)
            for name, take in ROWS.items()
            if not given.only or any(word in name for word in given.only)
        }
        print()
        os.sched_setaffinity(0, every_core)
        compared = []
        if not given.only:
            compared = object_store.compare(Path(scratch), database, objects, given.rounds, given.seconds)
        _print_goals(rows, compared)
        print(f"\nload: {os.getloadavg()[0]:.0f}")
    return 0


def _row(
    name: str, take: Callable[[Peer, float], Taken], peers: Mapping[str, Peer], rounds: int, seconds: float
) -> Mapping[str, Taken]:
    """Measure, print and return one row."""
    taken = [{peer: take(at, seconds) for peer, at in peers.items()} for _ in range(rounds)]
    row = {peer: _median(taken, peer) for peer in peers}
    print(f"| {name} | {' | '.join(_cell(each, row[EMBEDDED]) for each in row.values())} |", flush=True)
    return row


def _print_goals(rows: Mapping[str, Mapping[str, Taken]], compared: Sequence[Compared]) -> None:
    """Print each ratio that has a goal, or is asked for without one."""
    print("| ratio | | goal |\n| --- | ---: | --- |")
    for name, goal in GOALS.items():
        if name in rows:
            shared = rows[name][SHARED]
            ratio = shared.per_second / rows[name][EMBEDDED].per_second
            queries = "" if shared.queries is None else f", {shared.queries:.3f} queries for each"
            print(
                f"| {name}: {SHARED} to {EMBEDDED} | {ratio:.2f}{queries} | {goal}: {'holds' if ratio >= goal else 'MISSED'} |"
            )
    for row in compared:
        for other, figure in (("the S3 server itself", row.store), ("docker-registry", row.registry)):
            if not math.isnan(figure):
                print(f"| {row.name}: to {other} | {row.boltseal / figure:.2f} | |")
    for name, row_of in rows.items():
        if BEFORE in row_of:
            ratio = row_of[EMBEDDED].per_second / row_of[BEFORE].per_second
            worked = row_of[BEFORE].worked_us / max(row_of[EMBEDDED].worked_us, 0.1)
            print(f"| {name}: {EMBEDDED} to before | {ratio:.2f}, by processor time {worked:.2f} | 1 |")


def _median(taken: Sequence[Mapping[str, Taken]], peer: str) -> Taken:
    each = [one[peer] for one in taken]
    queries = [one.queries for one in each if one.queries is not None]
    return Taken(
        statistics.median(one.per_second for one in each),
        statistics.median(one.worked_us for one in each),
        statistics.median(queries) if queries else None,
    )


def _cell(taken: Taken, base: Taken) -> str:
    text = f"{taken.per_second:,.0f} /s"
    if taken is not base:
        text += f" ({taken.per_second / base.per_second:.2f} x)"
    text += f", worked {taken.worked_us:,.0f} us"
    if taken is not base and taken.worked_us:
        text += f" ({base.worked_us / taken.worked_us:.2f} x)"
    return text if taken.queries is None else f"{text}, {taken.queries:.3f} queries"


def _manifest(path: Callable[[Readable], str]) -> Callable[[Peer, float], Taken]:
    def take(peer: Peer, seconds: float) -> Taken:
        url = peer.server.url + path(peer.readable)
        whole_s = max(1, round(seconds))
        return peer.measured(
            lambda: load.wrk(url, seconds, [f"Accept: {MANIFEST_TYPE}"]).per_second, lambda rate, _: rate * whole_s
        )

    return take


def _blob(peer: Peer, seconds: float) -> Taken:
    url = peer.server.url + peer.readable.blob(peer.readable.content.small)
    whole_s = max(1, round(seconds))
    return peer.measured(lambda: load.wrk(url, seconds).per_second, lambda rate, _: rate * whole_s)


def _small_pushes(peer: Peer, seconds: float) -> Taken:
    return peer.measured(
        lambda: load.push_small_blobs(peer.server.address, REPOSITORY, 4 * KIB, seconds, SMALL_CONNECTIONS),
        lambda rate, _: rate * seconds,
    )


def _large_pushes(peer: Peer, _seconds: float) -> Taken:
    size = 64 * MIB
    return peer.measured(
        lambda: load.push_blobs(peer.server.address, REPOSITORY, size, until=lambda n: n >= LARGE_PUSHES) / size,
        lambda _rate, _elapsed: LARGE_PUSHES,
    )


ROWS: Mapping[str, Callable[[Peer, float], Taken]] = {
    "manifest GET, sealed tag": _manifest(lambda at: at.by_tag),
    "manifest GET, mutable tag": _manifest(lambda at: at.by_floating_tag),
    "manifest GET, digest": _manifest(lambda at: at.by_digest),
    "blob GET, 10 KiB": _blob,
    "push, 4 KiB, 16 connections": _small_pushes,
    "push, 64 MiB": _large_pushes,
}


@contextlib.contextmanager
def _embedded(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Peer]:
    folder.mkdir()
    with servers.boltseal(folder / "data", before=ON_SERVER_CORE, settings=environment) as server:
        yield Peer(_filled(server))


@contextlib.contextmanager
def _shared(folder: Path, database: Postgres, objects: ObjectServer) -> Iterator[Peer]:
    folder.mkdir()
    url = database.url(database.create_database())
    with servers.boltseal(
        folder / "data", before=ON_SERVER_CORE, config=config(folder, url, objects), settings=LOGIN
    ) as server:
        yield Peer(_filled(server), url)


def _filled(server: Server) -> Readable:
    content = make_content(MIB)
    fill(server, content)
    return Readable(server, content)


if __name__ == "__main__":
    raise SystemExit(main())
