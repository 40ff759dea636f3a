"""PostgreSQL and SeaweedFS (an S3 server), started for tests on 127.0.0.1, each on a new folder; and the option `--storage`.

`scripts/serve_postgres.py` starts the same programs on a folder that is kept.

Each is a context manager that yields a server which tests can kill and start again, to see what survives.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import obstore
import psycopg
import pytest
from obstore.store import S3Store

from boltseal.server.storage.metadata.postgres_schema import prepare_database
from boltseal.server.storage_settings import DatabaseUrl
from tests.polling import wait_until
from tests.ports import free_port
from tests.storage_choice import address_file, drop_database

START_S = 60.0
STOP_S = 30.0
USER = "boltseal"
ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"
BUCKET = "boltseal"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--storage",
        choices=["sqlite", "postgres", "s3", "postgres+s3"],
        default="sqlite",
        help="storage of registries in tests",
    )


@dataclass(slots=True)
class StorageServer:
    """A process that can be killed and started again on the same folder and port."""

    argv: Sequence[str]
    port: int
    folder: Path
    ends_with: signal.Signals
    environment: Mapping[str, str] | None = None
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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(with_signal)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"it ended: {self.log.read_text(errors='replace')[-4000:]}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass(slots=True)
class Postgres(StorageServer):
    """A PostgreSQL server with a superuser `boltseal` and no password on 127.0.0.1."""

    def url(self, database: str) -> str:
        """Return the address of one of its databases."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

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


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs, which Debian names after the version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "PostgreSQL is missing; on Debian: apt-get install postgresql"
    return found[-1].parent


def unprivileged() -> tuple[str, ...]:
    """Return the command prefix for programs that refuse to run as root."""
    if os.geteuid() != 0:
        return ()
    user = pwd.getpwnam("nobody")
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--reset-env")


@contextlib.contextmanager
def postgres(*, settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """Run PostgreSQL on a new folder. `settings`: of `postgresql.conf`, such as `fsync`, which is on by default."""
    with _own_folder("pg") as folder:
        data, programs = folder / "data", postgres_programs()
        subprocess.run(
            [*unprivileged(), str(programs / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True,
        )  # fmt: skip
        port = free_port()
        options = {"port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder)}
        options |= {"max_connections": "200"} | dict(settings or {})
        server = Postgres(
            [*unprivileged(), str(programs / "postgres"), "-D", str(data), *(f"--{k}={v}" for k, v in options.items())],
            port, folder, signal.SIGINT,
        )  # fmt: skip
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
        return f"http://127.0.0.1:{self.port}"

    def store(self, prefix: str = "") -> S3Store:
        """Return a client of its bucket, below a prefix."""
        return S3Store(
            BUCKET, prefix=prefix or None, endpoint=self.endpoint, access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY, region="us-east-1", client_options={"allow_http": True},
        )  # fmt: skip

    def answers(self) -> bool:
        """Return whether it stores an object now."""
        try:
            obstore.put(self.store("health"), uuid.uuid4().hex, b"1")
        except Exception:  # noqa: BLE001 - obstore's errors have no common class of their own
            return False
        return True


@contextlib.contextmanager
def seaweedfs() -> Iterator[ObjectServer]:
    """Run SeaweedFS with an S3 gateway on a new folder."""
    with _own_folder("weed") as folder:
        names = ("master", "volume", "filer", "s3", "admin")
        ports = {name: free_port() for name in names}
        data = folder / "data"
        data.mkdir()
        options = {
            "dir": str(data), "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false", "bucket": BUCKET,
            "admin.ui": "false", "webdav": "false", "master.electionTimeout": "1s", "s3.port.iceberg": "0",
            "s3.port.lance": "0", "filer.localSocket": str(folder / "f.sock"), "s3.localSocket": str(folder / "s.sock"),
        }  # fmt: skip
        options |= {f"{name}.port": str(port) for name, port in ports.items()}
        options |= {f"{name}.port.grpc": str(free_port()) for name in names}
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "GOMEMLIMIT": "256MiB",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }  # fmt: skip
        weed = Path(sys.executable).with_name("weed")
        server = ObjectServer(
            [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())],
            ports["s3"], folder, signal.SIGTERM, environment,
        )  # fmt: skip
        try:
            server.start()
            wait_until(server.answers, "SeaweedFS stores an object", START_S)
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def _own_folder(name: str) -> Iterator[Path]:
    """Return a folder with a short path, because of sockets, that the unprivileged user may write to."""
    folder = Path(tempfile.mkdtemp(prefix=f"boltseal-{name}-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for all tests of this process; each makes a database of its own in it, and none ends it.

    It does not wait for the disk: tests that kill a server start one of their own.
    """
    with postgres(settings={"fsync": "off", "full_page_writes": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def schema_template(postgres_server: Postgres) -> str:
    """A database with boltseal's schema, of which copies are made, since that takes less time than creating the tables."""
    name = postgres_server.create_database()
    prepare_database(DatabaseUrl(postgres_server.url(name)))
    return name


@pytest.fixture
def new_database(postgres_server: Postgres, schema_template: str) -> Iterator[Callable[[], str]]:
    """Return the address of a new database with boltseal's schema at each call; they are dropped at the end of the test."""
    names: list[str] = []

    def create() -> str:
        names.append(postgres_server.create_database(schema_template))
        return postgres_server.url(names[-1])

    yield create
    for name in names:
        postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def choose_database(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], None]]:
    """Give a new data folder a database of its own, which `storage_of` returns. With SQLite there is nothing to do."""
    if "postgres" not in request.config.getoption("--storage"):
        yield lambda _: None
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("schema_template")
    chosen: list[Path] = []

    def choose(data: Path) -> None:
        if not address_file(data).exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            address_file(data).write_text(server.url(server.create_database(template)), encoding="ascii")
            chosen.append(data)

    yield choose
    for data in chosen:
        drop_database(data)


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """One S3 server for all tests of this process; each uses a prefix of its own in its bucket, and none ends it."""
    with seaweedfs() as server:
        yield server
