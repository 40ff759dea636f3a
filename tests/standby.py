"""A synchronous standby of a PostgreSQL, and its promotion."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg

from scripts.storage_programs import USER, postgres_command
from tests.namespaces import Host
from tests.polling import wait_until
from tests.ports import free_port
from tests.storage_servers import Postgres, own_folder, postgres_programs, unprivileged


@contextlib.contextmanager
def standby(
    server: Postgres, *, settings: Mapping[str, str] | None = None, inside: Path | None = None, on: Host | None = None
) -> Iterator[Postgres]:
    """Run a synchronous standby of a PostgreSQL on a new folder. The arguments are those of `storage_servers.postgres`."""
    before = () if on is None else on.before
    with own_folder("pg", inside) as folder:
        conninfo = f"host={server.host} port={server.port} user={USER} application_name=s1"
        subprocess.run(
            [*before, *unprivileged(), str(postgres_programs() / "pg_basebackup"), "-D", str(folder / "data"), "-d", conninfo,
             "-R", "-X", "stream", "-c", "fast", "-C", "-S", "s1"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        port = free_port() if on is None else server.port
        own = {} if on is None else {"listen_addresses": "*"}
        argv = [*before, *postgres_command(folder / "data", port, folder, {**own, **(settings or {})})]
        running = Postgres(argv, port, folder, signal.SIGINT, host="127.0.0.1" if on is None else on.address)
        running.start()
        try:
            wait_until(running.answers, "the standby takes connections")
            server.execute("ALTER SYSTEM SET synchronous_standby_names = 's1'")
            server.execute("SELECT pg_reload_conf()")
            wait_until(lambda: is_synchronous(server), "the standby is synchronous")
            yield running
        finally:
            running.stop()


def is_synchronous(server: Postgres) -> bool:
    """Return whether COMMITs of a PostgreSQL wait for a standby that is connected."""
    with psycopg.connect(server.url("postgres")) as connection:
        return connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone() is not None


def promote(second: Postgres) -> None:
    """Let a standby take writes without a standby of its own."""
    second.execute("SELECT pg_promote()")
    second.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    second.execute("SELECT pg_reload_conf()")
