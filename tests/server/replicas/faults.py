"""Faults of an installation of three servers (`cluster`), and schedules of them by a seed.

Each fault is a context manager: it breaks something at the beginning, and repairs it at the end. `SERVER_FAULTS` are about one server,
which the schedule chooses; the others are about what all of them use. A cut drops packets, so that connections hang.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

import psycopg

from tests.replicas import stopped
from tests.server.replicas.cluster import SERVERS, Cluster
from tests.soak.processes import ballast

TEN_MINUTES_S: Final = 600
MOST_SEGMENTS: Final = 20
"""After so many switches PostgreSQL has used the files that it keeps for its log."""


@contextlib.contextmanager
def killed(cluster: Cluster, server: int) -> Iterator[None]:
    """SIGKILL of a server, which is started again."""
    cluster.replicas[server].kill()
    yield
    cluster.replicas[server].start()


@contextlib.contextmanager
def frozen(cluster: Cluster, server: int) -> Iterator[None]:
    """SIGSTOP of a server, which goes on later as if nothing had been."""
    running = cluster.replicas[server].server
    assert running is not None
    with stopped(running):
        yield


@contextlib.contextmanager
def clock_ahead(cluster: Cluster, server: int) -> Iterator[None]:
    """The clock of a server jumps ten minutes ahead, and later back."""
    yield from _clock(cluster, server, TEN_MINUTES_S)


@contextlib.contextmanager
def clock_behind(cluster: Cluster, server: int) -> Iterator[None]:
    """The clock of a server is set back by ten minutes, and later right."""
    yield from _clock(cluster, server, -TEN_MINUTES_S)


def _clock(cluster: Cluster, server: int, ahead_s: int) -> Iterator[None]:
    cluster.replicas[server].set_clock(ahead_s)
    yield
    cluster.replicas[server].set_clock(0)


@contextlib.contextmanager
def cut_from_database(cluster: Cluster, server: int) -> Iterator[None]:
    """A server does not reach PostgreSQL."""
    yield from _cut(cluster, cluster.replicas[server].host.address, cluster.database_address)


@contextlib.contextmanager
def cut_from_objects(cluster: Cluster, server: int) -> Iterator[None]:
    """A server does not reach the S3 server."""
    yield from _cut(cluster, cluster.replicas[server].host.address, cluster.objects.host)


@contextlib.contextmanager
def cut_from_clients(cluster: Cluster, server: int) -> Iterator[None]:
    """A server does not reach its clients, but all else."""
    yield from _cut(cluster, cluster.replicas[server].host.address, cluster.network.clients)


@contextlib.contextmanager
def cut_from_standby(cluster: Cluster, _: int) -> Iterator[None]:
    """PostgreSQL does not reach its standby, for which each COMMIT waits."""
    first, second = cluster.database_hosts
    yield from _cut(cluster, first, second)


def _cut(cluster: Cluster, first: str, second: str) -> Iterator[None]:
    cluster.network.cut(first, second)
    yield
    cluster.network.heal(first, second)


@contextlib.contextmanager
def database_killed(cluster: Cluster, _: int) -> Iterator[None]:
    """SIGKILL of PostgreSQL, whose standby is promoted later, and gets a standby of its own."""
    cluster.primary.kill()
    yield
    cluster.fail_over()
    cluster.start_standby()


@contextlib.contextmanager
def database_cut_off(cluster: Cluster, _: int) -> Iterator[None]:
    """PostgreSQL is cut off from everything, goes on, and its standby is promoted."""
    host = cluster.database_hosts[cluster.primary.host]
    cluster.network.unplug(host)
    yield
    cluster.fail_over()
    cluster.network.plug(host)
    cluster.start_standby()


@contextlib.contextmanager
def objects_killed(cluster: Cluster, _: int) -> Iterator[None]:
    """SIGKILL of the S3 server, which is started again."""
    cluster.objects.kill()
    yield
    cluster.restart_objects()


@contextlib.contextmanager
def objects_frozen(cluster: Cluster, _: int) -> Iterator[None]:
    """SIGSTOP of the S3 server: requests hang."""
    os.killpg(cluster.objects.pid, signal.SIGSTOP)
    yield
    os.killpg(cluster.objects.pid, signal.SIGCONT)


@contextlib.contextmanager
def server_disk_full(cluster: Cluster, server: int) -> Iterator[None]:
    """The disk of a server's data folder is full."""
    with ballast(cluster.disks[server]):
        yield


@contextlib.contextmanager
def database_disk_full(cluster: Cluster, _: int) -> Iterator[None]:
    """The disk of PostgreSQL is full, also for its log."""
    with ballast(cluster.primary_disk):
        with contextlib.suppress(psycopg.Error):
            for _number in range(MOST_SEGMENTS):
                cluster.primary.execute("SELECT pg_logical_emit_message(false, 'boltseal', 'x'), pg_switch_wal()")
        yield
    cluster.restart_database()


@contextlib.contextmanager
def objects_disk_full(cluster: Cluster, _: int) -> Iterator[None]:
    """The disk of the S3 server is full. SeaweedFS needs a new start then: a name index whose journal failed once stays unwritable."""
    with ballast(cluster.objects_disk):
        yield
    cluster.objects.stop()
    cluster.restart_objects()


SERVER_FAULTS: Final = (
    killed, frozen, clock_ahead, clock_behind, cut_from_database, cut_from_objects, cut_from_clients, server_disk_full,
)  # fmt: skip
SHARED_FAULTS: Final = (
    cut_from_standby, database_killed, database_cut_off, objects_killed, objects_frozen, database_disk_full, objects_disk_full,
)  # fmt: skip
ALTERNATIVES: Final = (
    (clock_ahead, clock_behind),
    (database_killed, database_cut_off),
    (objects_killed, objects_frozen),
)
"""Of these a short schedule has one each."""

Break: TypeAlias = Callable[[Cluster, int], AbstractContextManager[None]]
"""Breaks something inside a block. The number is that of the server that a fault is about."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule. `server`: the one it is about. `after_s`: the moment, counted from when all servers were ready."""

    breaks: Break
    server: int
    after_s: float

    @property
    def name(self) -> str:
        """The name of the fault, for people."""
        return self.breaks.__name__

    @property
    def felt_by(self) -> tuple[int, ...]:
        """The servers whose requests fail meanwhile."""
        return (self.server,) if self.breaks in SERVER_FAULTS else tuple(range(SERVERS))

    def __str__(self) -> str:
        where = f" of server {self.server}" if self.breaks in SERVER_FAULTS else ""
        return f"{self.name}{where} after {self.after_s:.2f} s"


def schedule(seed: int, *, whole: bool) -> list[Fault]:
    """Return one round of faults in an order, of servers and at moments that the seed decides. `whole`: with all alternatives."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    left_out = set() if whole else {dice.choice(pair) for pair in ALTERNATIVES}
    chosen: list[Break] = [each for each in (*SERVER_FAULTS, *SHARED_FAULTS) if each not in left_out]
    dice.shuffle(chosen)
    return [Fault(each, dice.randrange(SERVERS), dice.uniform(0.2, 1.5)) for each in chosen]
