"""PostgreSQL and SeaweedFS (an S3 server), started for tests on 127.0.0.1 or in a network of the test, each on a new folder.

The fixtures that most tests want, and the option `--storage`, are in `tests.storage_option`; the commands are in
`scripts.storage_programs`. Each is a context manager that yields a server which tests can kill and start again, to see what survives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import obstore
import psycopg
from obstore.store import S3Store

from scripts.storage_programs import (
    BUCKET,
    PARTS,
    REGION,
    USER,
    init_postgres,
    object_client,
    postgres_command,
    postgres_programs,
    seaweedfs_command,
    seaweedfs_environment,
    unprivileged,
)
from tests.namespaces import Host
from tests.polling import wait_until
from tests.ports import free_port
from tests.programs import program
from tests.soak.processes import kill_tree

__all__ = [
    "ACCESS_KEY", "BUCKET", "SECRET_KEY", "USER", "ObjectServer", "Postgres", "StorageServer", "own_folder", "postgres", "postgres_programs",
    "radosgw", "seaweedfs", "unprivileged",
]  # fmt: skip

START_S = 180.0
STOP_S = 30.0
ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"


@dataclass(slots=True)
class StorageServer:
    """A process that can be killed and started again on the same folder and port. `host`: the address at which it is reached."""

    argv: Sequence[str]
    port: int
    folder: Path
    ends_with: signal.Signals
    environment: Mapping[str, str] | None = None
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self.process is not None, "the server does not run"
        return self.process.pid

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start the process and wait until it listens."""
        assert self.process is None, "the server runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        wait_until(self._listens, f"{self.argv[0]} listens: {self.log}", START_S)

    def stop(self) -> None:
        """End the process in order, by SIGKILL if that takes too long."""
        self._end(self.ends_with)

    def kill(self) -> None:
        """End the process and its children by SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, with_signal: signal.Signals) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        if with_signal is signal.SIGKILL:
            kill_tree(process.pid)  # PostgreSQL's other processes have process groups of their own
        else:
            process.send_signal(with_signal)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"it ended: {self.log.read_text(errors='replace')[-4000:]}"
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0


@dataclass(slots=True)
class Postgres(StorageServer):
    """A PostgreSQL server with a superuser `boltseal` and no password."""

    def url(self, database: str) -> str:
        """Return the address of one of its databases."""
        return f"postgresql://{USER}@{self.host}:{self.port}/{database}"

    def create_database(self, template: str = "template0") -> str:
        """Create a database with a name of its own, as a copy of another one, and return the name."""
        name = f"d{uuid.uuid4().hex}"
        self.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and end its connections."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside a transaction."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement.encode())

    def answers(self) -> bool:
        """Return whether it takes connections now."""
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def postgres(
    *, settings: Mapping[str, str] | None = None, inside: Path | None = None, on: Host | None = None
) -> Iterator[Postgres]:
    """Run PostgreSQL on a new folder.

    `settings`: of `postgresql.conf`, such as `fsync`, which is on by default. `inside`: the folder for the new one. `on`: a host of
    a network of the test, from which every other one may connect.
    """
    with own_folder("pg", inside) as folder:
        init_postgres(folder / "data")
        port = free_port()
        if on is not None:
            settings = {"listen_addresses": "*", **(settings or {})}
            with (folder / "data/pg_hba.conf").open("a") as rules:
                rules.write("host all all all trust\nhost replication all all trust\n")
        argv = [*_before(on), *postgres_command(folder / "data", port, folder, settings)]
        server = Postgres(argv, port, folder, signal.SIGINT, host=_address(on))
        try:
            server.start()
            wait_until(server.answers, "PostgreSQL takes connections", START_S)
            yield server
        finally:
            server.stop()


@dataclass(slots=True)
class ObjectServer(StorageServer):
    """An S3 server with one bucket."""

    @property
    def endpoint(self) -> str:
        """The address for clients."""
        return f"http://{self.host}:{self.port}"

    def store(self, prefix: str = "") -> S3Store:
        """Return a client of its bucket, below a prefix."""
        return object_client(self.endpoint, (ACCESS_KEY, SECRET_KEY), prefix)

    def answers(self) -> bool:
        """Return whether it stores an object now."""
        try:
            obstore.put(object_client(self.endpoint, (ACCESS_KEY, SECRET_KEY), once=True), "health", b"1")
        except Exception:  # noqa: BLE001 - obstore's errors have no common class of their own
            return False
        return True


@contextlib.contextmanager
def seaweedfs(*, inside: Path | None = None, on: Host | None = None) -> Iterator[ObjectServer]:
    """Run SeaweedFS with an S3 gateway on a new folder. `inside`: the folder for the new one. `on`: a host of a network of the test."""
    with own_folder("weed", inside) as folder:
        data = folder / "data"
        data.mkdir()
        ports = {name: free_port() for part in PARTS for name in (part, f"{part}.grpc")}
        argv = [*_before(on), *seaweedfs_command(data, ports, folder), *([] if on is None else ["-ip.bind=0.0.0.0"])]
        environment = seaweedfs_environment((ACCESS_KEY, SECRET_KEY), folder)
        server = ObjectServer(argv, ports["s3"], folder, signal.SIGTERM, environment, _address(on))
        try:
            server.start()
            wait_until(server.answers, "SeaweedFS stores an object", START_S)
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def radosgw(*, inside: Path | None = None) -> Iterator[ObjectServer]:
    """Run Ceph's S3 server alone, on SQLite (its `dbstore`), on a new folder. Multipart uploads return wrong bytes there."""
    with own_folder("rgw", inside) as folder:
        port = free_port()
        (folder / "ceph.conf").write_text(
            f"[global]\nlog file = {folder}/ceph.log\nadmin socket = {folder}/admin.sock\nrun dir = {folder}\n"
            f"rgw data = {folder}\nrgw backend store = dbstore\nrgw config store = dbstore\ndbstore db dir = {folder}\n"
            f"dbstore config uri = file://{folder}/config.db\nrgw frontends = beast endpoint=127.0.0.1:{port}\n"
        )
        options = ("--no-mon-config", "-c", str(folder / "ceph.conf"), "-n", "client.rgw")
        _create_user(folder / "user.json", options)
        server = ObjectServer([program("radosgw"), *options, "-f"], port, folder, signal.SIGTERM)
        try:
            server.start()
            create = [
                "curl",
                "--silent",
                "--fail",
                "--aws-sigv4",
                f"aws:amz:{REGION}:s3",
                "--user",
                f"{ACCESS_KEY}:{SECRET_KEY}",
            ]
            subprocess.run([*create, "-X", "PUT", f"{server.endpoint}/{BUCKET}"], check=True)
            wait_until(server.answers, "radosgw stores an object", START_S)
            yield server
        finally:
            server.stop()


def _create_user(output: Path, options: Sequence[str]) -> None:
    """Create the user of radosgw. `output`: the file for what radosgw-admin prints when it has; afterwards it hangs now and then."""
    argv = [program("radosgw-admin"), *options, "user", "create", "--uid", USER, "--display-name", USER]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*argv, "--access-key", ACCESS_KEY, "--secret", SECRET_KEY], stdout=file, stderr=subprocess.DEVNULL
        )
    try:
        wait_until(lambda: output.read_text().rstrip().endswith("}"), "radosgw-admin created a user", START_S)
    finally:
        process.kill()
        process.wait()


def _before(on: Host | None) -> tuple[str, ...]:
    return () if on is None else on.before


def _address(on: Host | None) -> str:
    return "127.0.0.1" if on is None else on.address


@contextlib.contextmanager
def own_folder(name: str, inside: Path | None) -> Iterator[Path]:
    """Return a folder with a short path, because of sockets, that the unprivileged user may write to."""
    folder = Path(tempfile.mkdtemp(prefix=f"boltseal-{name}-", dir=inside))
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
