"""Three servers of one registry, PostgreSQL with a synchronous standby, and an S3 server, each on a host and disk of its own.

    clients (this machine)   .1
    replica0, 1, 2           .11 .12 .13     a data folder of DATA_DISK; a clock of its own; no way to one another
    PostgreSQL               .20             the address that the servers use, of the primary; the router moves it at a failover
      its two hosts          .21 .22         one is the primary, the other its synchronous standby
    S3 server                .30             bytes and the mark

The hosts are network namespaces (`tests.namespaces`). The time of day of a server is set with libfaketime, which leaves its monotonic clock as it is.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final

from tests.namespaces import Host, Network, network
from tests.polling import wait_until
from tests.ports import free_port
from tests.replicas import RULES, Replicas, replicas
from tests.servers import Server
from tests.small_disk import small_disk
from tests.soak.processes import kill_tree
from tests.standby import promote, standby
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

SERVERS: Final = 3
CLOCKS: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
DATA_DISK, DATABASE_DISK, OBJECTS_DISK = "size=128m", "size=300m", "size=400m"
SMALL: Final = {"fsync": "off", "max_wal_size": "64MB", "min_wal_size": "32MB"}
"""The machine does not lose power; PostgreSQL's disk is small."""
GUESTS: Final = tuple(f"guest{number}" for number in range(300))
"""Names of users that are added and removed, one after the other."""
MAIN: Final = "boss"
CONFIG: Final = f"""{RULES}
[ledger]
public = true
[[auth.grant]]
users = ["{MAIN}"]
repository = "**"
actions = ["pull", "push", "delete", "ledger", "admin"]
[[auth.grant]]
users = [{", ".join(f'"{name}"' for name in GUESTS)}]
repository = "shop/**"
actions = ["pull"]
"""


@dataclass(slots=True)
class Replica:
    """One server, which can be killed and started again."""

    registry: Replicas
    name: str
    host: Host
    clock: Path
    port: int = field(default_factory=free_port)
    server: Server | None = None
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://{self.host.address}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is ready."""
        clock = {
            "LD_PRELOAD": str(CLOCKS[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DISABLE_SHM": "1",  # a killed process would leave it
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self._running = contextlib.ExitStack()
        settings = {**clock, "BOLTSEAL_SERVER__BEHIND_PROXY": "true"}
        running = self.registry.serve(self.name, settings=settings, port=self.port, on=self.host)
        self.server = self._running.enter_context(running)

    def kill(self) -> None:
        """End it and its worker by SIGKILL."""
        assert self.server is not None
        kill_tree(self.server.pid)
        self.stop()

    def stop(self) -> None:
        """End it in order; one that was killed is only waited for."""
        self.server = None
        self._running.close()

    def set_clock(self, ahead_s: int) -> None:
        """Set the time of day of the server so many seconds ahead of this machine's."""
        written = self.clock.with_suffix(".new")
        written.write_text(f"{ahead_s:+d}\n")
        written.replace(self.clock)


@dataclass(slots=True)
class Cluster:
    """The whole installation. `disks`: of the replicas in their order. `database_disks`: by the address of PostgreSQL's hosts."""

    network: Network
    registry: Replicas
    replicas: list[Replica]
    disks: list[Path]
    objects: ObjectServer
    objects_disk: Path
    primary: Postgres
    database_hosts: dict[str, Host]
    database_disks: dict[str, Path]
    running: dict[str, contextlib.ExitStack]
    """What ends PostgreSQL on a host, and deletes its folder, by the address."""
    second: Postgres | None = None

    @property
    def database_address(self) -> str:
        """The address of PostgreSQL for the servers and commands."""
        return f"{self.network.prefix}.20"

    @property
    def primary_disk(self) -> Path:
        """The disk of the primary."""
        return self.database_disks[self.primary.host]

    def start_standby(self) -> None:
        """Start a new standby on the host that has none, and let COMMITs wait for it."""
        (host,) = (each for each in self.database_hosts.values() if each.address != self.primary.host)
        made = standby(self.primary, settings=SMALL, inside=self.database_disks[host.address], on=host)
        self.second = self.running[host.address].enter_context(made)

    def fail_over(self) -> None:
        """Promote the standby, and send the packets for PostgreSQL to it. The former primary must not answer any more."""
        assert self.second is not None
        former, self.primary, self.second = self.primary, self.second, None
        promote(self.primary)
        self.network.move(self.database_address, self.database_hosts[self.primary.host])
        former.kill()
        self.running[former.host].close()
        wait_until(self.primary.answers, "the new primary takes connections")

    def restart_database(self) -> None:
        """Start the primary again if it has ended, as it does when it can't write."""
        assert self.primary.process is not None
        if self.primary.process.poll() is not None:
            self.primary.process = None
            self.primary.start()
        wait_until(self.primary.answers, "PostgreSQL takes connections")

    def restart_objects(self) -> None:
        """Start the S3 server again after it was killed."""
        self.objects.start()
        wait_until(self.objects.answers, "the S3 server stores objects")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run an installation that is ready."""
    assert CLOCKS, "libfaketime is missing, which sets the clock of a server; on Debian: apt-get install libfaketime"
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network())
        replica_hosts = [net.host(11 + number) for number in range(SERVERS)]
        database_hosts = {host.address: host for host in (net.host(21), net.host(22))}
        objects_host = net.host(30)
        for first, second in combinations(replica_hosts, 2):  # servers never talk to one another
            net.cut(first.address, second.address)
        database_disks = {address: stack.enter_context(disk(DATABASE_DISK)) for address in database_hosts}
        objects_disk = stack.enter_context(disk(OBJECTS_DISK))
        initial, *_ = database_hosts.values()
        databases = {host: stack.enter_context(contextlib.ExitStack()) for host in database_hosts}
        primary = databases[initial.address].enter_context(
            postgres(settings=SMALL, inside=database_disks[initial.address], on=initial)
        )
        objects = stack.enter_context(seaweedfs(inside=objects_disk, on=objects_host))
        address = f"{net.prefix}.20"
        for host in database_hosts.values():
            net.alias(host, address)
        net.move(address, initial)
        url = primary.url(primary.create_database()).replace(primary.host, address)
        registry = stack.enter_context(replicas(folder, url, objects, CONFIG))
        disks = [stack.enter_context(small_disk(folder / f"replica{number}", DATA_DISK)) for number in range(SERVERS)]
        running = [
            Replica(registry, f"replica{number}", host, folder / f"clock{number}")
            for number, host in enumerate(replica_hosts)
        ]
        made = Cluster(
            net, registry, running, disks, objects, objects_disk, primary, database_hosts, database_disks, databases
        )
        made.start_standby()
        (folder / "replica0.toml").write_text(registry.config)  # for commands, before a server writes it
        registry.add_user(MAIN)
        for replica in running:
            replica.set_clock(0)
            stack.callback(replica.stop)
        running[0].start()
        with ThreadPoolExecutor(SERVERS) as threads:
            list(threads.map(Replica.start, running[1:]))
        yield made


@contextlib.contextmanager
def disk(size: str) -> Iterator[Path]:
    """Mount a small file system that every user may write to, with a short path because of sockets."""
    with tempfile.TemporaryDirectory(prefix="disk-") as outer:
        Path(outer).chmod(0o755)
        with small_disk(Path(outer) / "d", size) as folder:
            folder.chmod(0o777)
            yield folder
