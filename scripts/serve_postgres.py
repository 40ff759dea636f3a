"""Runs boltseal with its metadata in PostgreSQL and its bytes on an S3 server, all on 127.0.0.1, to try that out.

    python -m scripts.serve_postgres [--listen 127.0.0.1:5000] [--data ./data-postgres]

PostgreSQL comes from the system's packages, the S3 server is SeaweedFS of the development dependencies. Ctrl-C ends all three; what
they stored is in the folder, and the next start continues with it.

    FOLDER/postgresql/  the database          FOLDER/objects/  the S3 server's files       FOLDER/*.log  what they print
    FOLDER/boltseal/    boltseal's folder     FOLDER/boltseal.keys/  its keys

For trying out only: the database has no password, and the mark is on the same S3 server as the blobs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import obstore
import obstore.exceptions
import psycopg

from scripts.storage_programs import (
    BUCKET,
    PARTS,
    USER,
    ProgramMissing,
    init_postgres,
    object_client,
    postgres_command,
    seaweedfs_command,
    seaweedfs_environment,
)

START_S: Final = 60.0
STOP_S: Final = 30.0
POSTGRES_PORT: Final = 28_321
S3_PORT: Final = 28_322
"""The first port of SeaweedFS; its other parts have those after it."""
GRPC_PORTS: Final = 10
"""How much higher the second port of each part of SeaweedFS is."""


class CannotStart(Exception):
    """A server can't be started here; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Run the servers until Ctrl-C. Return the exit code."""
    parser = argparse.ArgumentParser(description="Run boltseal on PostgreSQL and an S3 server, on 127.0.0.1.")
    parser.add_argument("--listen", default="127.0.0.1:5000")
    parser.add_argument("--data", type=Path, default=Path("data-postgres"))
    options = parser.parse_args(arguments)
    folder = options.data.resolve()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with postgresql(folder) as database, s3_server(folder) as login:
            return boltseal(folder, options.listen, database, login)
    except (CannotStart, ProgramMissing) as error:
        print(f"serve-postgres: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(_: int, __: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL and yield the address of boltseal's database."""
    data = folder / "postgresql"
    init_postgres(data)
    argv = postgres_command(data, POSTGRES_PORT, data)
    with running("PostgreSQL", argv, folder / "postgresql.log", POSTGRES_PORT, signal.SIGINT):
        address = f"postgresql://{USER}@127.0.0.1:{POSTGRES_PORT}"
        create_database(f"{address}/postgres")
        yield f"{address}/{USER}"


def create_database(address: str) -> None:
    """Create boltseal's database where there is none, as soon as the server takes connections."""
    ends_s = time.monotonic() + START_S
    while True:
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
                there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (USER,)).fetchone()
                if there is None:
                    connection.execute(f"CREATE DATABASE {USER} TEMPLATE template0".encode())
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > ends_s:
                raise CannotStart(f"PostgreSQL takes no connections: {error}") from error
            time.sleep(0.1)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Run SeaweedFS with one bucket and yield the access key's id and secret."""
    data = folder / "objects"
    data.mkdir(mode=0o700, exist_ok=True)
    ports = {part: S3_PORT + number for number, part in enumerate(("s3", *(part for part in PARTS if part != "s3")))}
    ports |= {f"{part}.grpc": port + GRPC_PORTS for part, port in ports.items()}
    login = access_key(folder / "s3.key")
    argv, environment = seaweedfs_command(data, ports, data), seaweedfs_environment(login, folder)
    with running("SeaweedFS", argv, folder / "s3.log", S3_PORT, signal.SIGTERM, environment):
        await_bucket(login)
        yield login


def await_bucket(login: tuple[str, str]) -> None:
    """Wait until the S3 server stores an object, which it does some seconds after it takes connections."""
    store = object_client(f"http://127.0.0.1:{S3_PORT}", login, once=True)
    ends_s = time.monotonic() + START_S
    while True:
        try:
            obstore.put(store, "started", b"")
        except (obstore.exceptions.BaseError, OSError) as error:
            if time.monotonic() > ends_s:
                raise CannotStart(f"SeaweedFS stores nothing: {error}") from error
            time.sleep(0.2)
        else:
            return


def access_key(path: Path) -> tuple[str, str]:
    """Return the access key in a file of two lines, which is made if there is none."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"{secrets.token_hex(10)}\n{secrets.token_hex(20)}\n")
    key_id, secret = path.read_text().split()
    return key_id, secret


@contextlib.contextmanager
def running(
    name: str,
    argv: Sequence[str],
    log: Path,
    port: int,
    ends_with: signal.Signals,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server until the block is left, and enter the block when its port takes connections."""
    if takes_connections(port):
        raise CannotStart(f"port {port} of 127.0.0.1, which is for {name}, is in use; end what uses it")
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(environment or {})},
            start_new_session=True, cwd="/",
        )  # fmt: skip
    try:
        ends_s = time.monotonic() + START_S
        while not takes_connections(port):
            if process.poll() is not None or time.monotonic() > ends_s:
                raise CannotStart(f"{name} does not start; see {log}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(ends_with)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def takes_connections(port: int) -> bool:
    """Return whether a process listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def boltseal(folder: Path, listen: str, database: str, login: tuple[str, str]) -> int:
    """Run boltseal until it ends, and return its exit code."""
    settings = {
        "AWS_ACCESS_KEY_ID": login[0],
        "AWS_SECRET_ACCESS_KEY": login[1],
        "BOLTSEAL_STORAGE__DATABASE": database,
        "BOLTSEAL_STORAGE__BLOBS": f"s3://{BUCKET}/registry",
        "BOLTSEAL_STORAGE__S3__ENDPOINT": f"http://127.0.0.1:{S3_PORT}",
        "BOLTSEAL_STORAGE__MARK__URL": f"s3://{BUCKET}/mark/boltseal.mark",
        "BOLTSEAL_STORAGE__MARK__ENDPOINT": f"http://127.0.0.1:{S3_PORT}",
        "BOLTSEAL_STORAGE__MARK__ACCESS_KEY_FILE": str(folder / "s3.key"),
    }
    argv = [str(Path(sys.executable).with_name("boltseal")), "serve", "--listen", listen]
    server = subprocess.Popen(
        [*argv, "--data", str(folder / "boltseal")], env={**os.environ, **settings}, start_new_session=True
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        return server.wait(STOP_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
