"""pgbouncer in transaction mode in front of a PostgreSQL, as many installations have it."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port
from tests.storage_servers import USER, Postgres, StorageServer, unprivileged


@contextmanager
def pgbouncer(server: Postgres, database: str = "postgres", connections: int = 20) -> Iterator[str]:
    """Run pgbouncer on a new folder, and yield the address of a database through it. `connections`: at most to a database."""
    folder = Path(tempfile.mkdtemp(prefix="boltseal-pgbouncer-"))
    folder.chmod(0o755)
    port = free_port()
    (folder / "users.txt").write_text(f'"{USER}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = trust\nauth_file = {folder}/users.txt\npool_mode = transaction\nmax_prepared_statements = 100\n"
        f"unix_socket_dir =\ndefault_pool_size = {connections}\nserver_login_retry = 1\n"
    )
    pooler = StorageServer(
        [*unprivileged(), "/usr/sbin/pgbouncer", str(folder / "pgbouncer.ini")], port, folder, signal.SIGINT
    )
    try:
        pooler.start()
        yield f"postgresql://{USER}@127.0.0.1:{port}/{database}"
    finally:
        pooler.stop()
        shutil.rmtree(folder, ignore_errors=True)
