"""Several `boltseal serve` processes on one PostgreSQL database and one bucket, as an operator runs them.

Each has a data folder and a port of its own; they share the folder of keys. The mark is on the same S3 server. Whatever
happens to one, the others go on, so a test may stop, continue or kill any of them by its process ID.
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import pytest

from boltseal.server.commands.users import put_user
from boltseal.server.configuration import load
from boltseal.server.settings import Settings
from tests import servers
from tests.namespaces import Host
from tests.servers import Server
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

LOGIN = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
SERVE_STALE_S = 5
"""How long a server of these tests serves from its caches without the database, and a purge waits for one that is stopped."""
GRANTS = """
[[auth.grant]]
users = ["boss", "ci"]
repository = "shop/**"
actions = ["pull", "push", "delete"]
"""
"""A part of the configuration with which clients have to log in."""
RULES = """
[[rule]]
tag = "floating-*"
mode = "floating"
[[rule]]
tag = "deletable-*"
keep = "deletable"
"""
"""A part of the configuration with tags that move, and with sealed tags that may be deleted."""


def password(user: str) -> str:
    """Return the password of a user."""
    return f"pw-{user}"


@dataclass(slots=True)
class Replicas:
    """The settings that all servers of one registry share. `database`: its address."""

    folder: Path
    database: str
    config: str
    running: list[Server] = field(default_factory=list)

    @contextlib.contextmanager
    def serve(
        self,
        name: str,
        *,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        on: Host | None = None,
    ) -> Iterator[Server]:
        """Run one more server. `name`: of its data folder. `port`: of a restarted one. `on`: a host of a network of the test."""
        with servers.boltseal(
            self.folder / name,
            config=self.config,
            workers=workers,
            settings=LOGIN | dict(settings or {}),
            port=port,
            host="127.0.0.1" if on is None else on.address,
            before=() if on is None else on.before,
        ) as server:
            self.running.append(server)
            try:
                yield server
            finally:
                self.running.remove(server)

    @contextlib.contextmanager
    def serving(self, count: int, *, settings: Mapping[str, str] | None = None) -> Iterator[list[Server]]:
        """Run several servers, which start one after the other."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.serve(f"replica{number}", settings=settings)) for number in range(count)]

    def settings(self, name: str) -> Settings:
        """Return the settings of one server, as its commands read them."""
        settings = load(self.folder / f"{name}.toml")
        return settings.model_copy(update={"server": settings.server.model_copy(update={"data": self.folder / name})})

    def add_user(self, name: str) -> None:
        """Add a user with the password of `password`, as the command does."""
        put_user(self.settings("replica0"), name, bcrypt.hashpw(password(name).encode(), bcrypt.gensalt(4)))


@contextlib.contextmanager
def replicas(folder: Path, database: str, objects: ObjectServer, more: str = "") -> Iterator[Replicas]:
    """Prepare a registry for several servers. `database`: its address. `more`: other tables of the configuration."""
    name = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mark.key").write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
    config = (
        f'[server]\nkeys = "{folder / "keys"}"\npublic_url = "http://registry.example.com"\nserve_stale = "{SERVE_STALE_S}s"\n'
        f'[storage]\ndatabase = "{database}"\nblobs = "s3://{BUCKET}/{name}"\n'
        f'[storage.s3]\nendpoint = "{objects.endpoint}"\n'
        f'[storage.mark]\nurl = "s3://{BUCKET}/{name}-mark/boltseal.mark"\nendpoint = "{objects.endpoint}"\n'
        f'access_key_file = "{folder / "mark.key"}"\n{more}'
    )
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in LOGIN.items():  # for commands in this process
            patch.setenv(variable, value)
        yield Replicas(folder, database, config)


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Stop a server and its workers by SIGSTOP inside the block, and continue them at its end."""
    pids = processes_of(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def processes_of(server: Server) -> list[int]:
    """Return the process IDs of a server: its own, then those of its workers."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii")
    return [server.pid, *map(int, children.split())]
