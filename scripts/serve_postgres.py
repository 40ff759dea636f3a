"""Runs boltseal with its metadata in PostgreSQL and its bytes on an S3 server, all on 127.0.0.1, to try that out.

    python -m scripts.serve_postgres [--listen 127.0.0.1:5000] [--data ./data-postgres]

PostgreSQL comes from the system's packages, the S3 server is SeaweedFS of the development dependencies. Ctrl-C ends all three; what
they stored is in the folder, and the next start continues with it.

    FOLDER/postgresql/  the database          FOLDER/objects/  the S3 server's files       FOLDER/*.log  what they print
    FOLDER/boltseal/    boltseal's folder     FOLDER/boltseal.keys/  its keys
    FOLDER/boltseal.toml  boltseal's settings, written once and then kept, also for `boltseal admin` beside the server
    FOLDER/s3.key, s3.env  the S3 server's access key, for the mark and as AWS_* variables; only for the owner

For trying out only: the database has no password, and the mark is on the same S3 server as the blobs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
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
KEPT: Final = (
    "# Written by `make`, which keeps this file from then on. Commands need the variables of s3.env as well.\n"
)


class CannotStart(Exception):
    """A server can't be started here; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Run the servers until Ctrl-C. Return the exit code."""
    parser = argparse.ArgumentParser(description="Run boltseal on PostgreSQL and an S3 server, on 127.0.0.1.")
    parser.add_argument("--listen", default="127.0.0.1:5000")
    parser.add_argument("--data", type=Path, default=Path("data-postgres"))
    options = parser.parse_args(arguments)
    folder = options.data.resolve()
    interrupted_by_sigterm()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with postgresql(folder, POSTGRES_PORT) as database, s3_server(folder, S3_PORT) as login:
            return boltseal(folder, options.listen, database, login)
    except (CannotStart, ProgramMissing) as error:
        print(f"serve-postgres: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def interrupted_by_sigterm() -> None:
    """Let SIGTERM end this program as Ctrl-C does."""

    def interrupt(_: int, __: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def postgresql(folder: Path, port: int) -> Iterator[str]:
    """Run PostgreSQL and yield the address of boltseal's database."""
    data = folder / "postgresql"
    init_postgres(data)
    argv = postgres_command(data, port, data)
    with running("PostgreSQL", argv, folder / "postgresql.log", port, signal.SIGINT):
        address = f"postgresql://{USER}@127.0.0.1:{port}"
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
def s3_server(folder: Path, port: int) -> Iterator[tuple[str, str]]:
    """Run SeaweedFS with one bucket and yield the access key's id and secret. It uses the ports from `port` on."""
    data = folder / "objects"
    data.mkdir(mode=0o700, exist_ok=True)
    ports = {part: port + number for number, part in enumerate(("s3", *(part for part in PARTS if part != "s3")))}
    ports |= {f"{part}.grpc": of_part + GRPC_PORTS for part, of_part in ports.items()}
    login = access_key(folder / "s3.key")
    argv, environment = seaweedfs_command(data, ports, data), seaweedfs_environment(login, folder)
    with running("SeaweedFS", argv, folder / "s3.log", port, signal.SIGTERM, environment):
        await_bucket(port, login)
        yield login


def await_bucket(port: int, login: tuple[str, str]) -> None:
    """Wait until the S3 server stores an object, which it does some seconds after it takes connections."""
    store = object_client(f"http://127.0.0.1:{port}", login, once=True)
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
        write_private(path, f"{secrets.token_hex(10)}\n{secrets.token_hex(20)}\n")
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
    of_server = f"data = {json.dumps(str(folder / 'boltseal'))}"
    command, variables = prepared(folder, of_server, storage(folder, database, S3_PORT), login)
    server = subprocess.Popen(
        [*command, "--listen", listen], env={**os.environ, **variables}, start_new_session=True
    )  # fmt: skip
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        return server.wait(STOP_S)


def prepared(
    folder: Path, of_server: str, of_storage: str, login: tuple[str, str]
) -> tuple[Sequence[str], Mapping[str, str]]:
    """Write boltseal's settings where there are none, and print how to use them.

    `of_server`: the lines of `[server]`. Return the command that serves with them, and its variables.
    """
    variables = {"AWS_ACCESS_KEY_ID": login[0], "AWS_SECRET_ACCESS_KEY": login[1]}
    write_private(folder / "s3.env", "".join(f"{name}={value}\n" for name, value in variables.items()))
    config = folder / "boltseal.toml"
    if not config.exists():
        write_private(config, f"{KEPT}[server]\n{of_server}\n{of_storage}")
    command = str(Path(sys.executable).with_name("boltseal"))
    print(
        "Commands of the administrator, in another terminal, such as:\n"
        f"    env $(cat {shlex.quote(str(folder / 's3.env'))}) {shlex.quote(command)} admin fsck --config {shlex.quote(str(config))}",
        file=sys.stderr,
    )
    return [command, "serve", "--config", str(config)], variables


def storage(folder: Path, database: str, s3_port: int) -> str:
    """Return the settings of these servers. The access key of the blobs is in the environment."""
    endpoint = f"http://127.0.0.1:{s3_port}"
    return f"""
[storage]
database = {json.dumps(database)}
blobs = "s3://{BUCKET}/registry"

[storage.s3]
endpoint = "{endpoint}"

[storage.mark]
url = "s3://{BUCKET}/mark/boltseal.mark"
endpoint = "{endpoint}"
access_key_file = {json.dumps(str(folder / "s3.key"))}
"""


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads; an older one is replaced as a whole."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
