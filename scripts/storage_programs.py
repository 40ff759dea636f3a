"""The commands of PostgreSQL and of SeaweedFS (an S3 server) on 127.0.0.1, for `serve_postgres` and for tests.

Nothing is started here, except for `initdb`. Both programs run without a disk cache or a telemetry of their own; PostgreSQL has a
superuser `boltseal` without a password, SeaweedFS one bucket and one access key.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from obstore.store import S3Store

USER: Final = "boltseal"
"""The superuser of PostgreSQL."""
BUCKET: Final = "boltseal"
REGION: Final = "us-east-1"
PARTS: Final = ("master", "volume", "filer", "s3", "admin")
"""The parts of SeaweedFS, each of which needs two ports."""


class ProgramMissing(Exception):
    """A program is not installed, or `initdb` failed; the message says what to do."""


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs, which Debian names after the version. Raises: ProgramMissing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    programs = found[-1].parent if found else Path(shutil.which("postgres") or "postgres").parent
    if not (programs / "initdb").is_file():
        raise ProgramMissing("PostgreSQL is missing; on Debian: apt-get install postgresql")
    return programs


def unprivileged() -> tuple[str, ...]:
    """Return the command prefix for programs that refuse to run as root."""
    if os.geteuid() != 0:
        return ()
    user = pwd.getpwnam("nobody")
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--reset-env")


def init_postgres(data: Path) -> None:
    """Create PostgreSQL's folder if there is none, whose parent the unprivileged user can enter. Raises: ProgramMissing."""
    if (data / "PG_VERSION").exists():
        return
    data.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        shutil.chown(data, account.pw_uid, account.pw_gid)
    argv = [
        *unprivileged(), str(postgres_programs() / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C",
    ]  # fmt: skip
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise ProgramMissing(f"initdb failed in {data}: {done.stderr.strip() or done.stdout.strip()}")


def postgres_command(data: Path, port: int, sockets: Path, settings: Mapping[str, str] | None = None) -> list[str]:
    """Return the command that runs PostgreSQL. `sockets`: the folder of its socket. `settings`: of `postgresql.conf`."""
    options = {"port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(sockets)}
    options |= {"max_connections": "200"} | dict(settings or {})
    programs = postgres_programs()
    return [
        *unprivileged(),
        str(programs / "postgres"),
        "-D",
        str(data),
        *(f"--{key}={value}" for key, value in options.items()),
    ]


def seaweedfs_command(data: Path, ports: Mapping[str, int], sockets: Path) -> list[str]:
    """Return the command that runs SeaweedFS.

    `ports`: for each of PARTS two ports, as `s3` and `s3.grpc`. `sockets`: the folder of its sockets, with a short path.

    Raises: ProgramMissing.
    """
    weed = Path(sys.executable).with_name("weed")
    if not weed.is_file():
        raise ProgramMissing("SeaweedFS is missing; `make venv` installs it")
    options = {
        "dir": data, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false", "bucket": BUCKET, "admin.ui": "false",
        "webdav": "false", "master.electionTimeout": "1s", "s3.port.iceberg": "0", "s3.port.lance": "0",
        "filer.localSocket": sockets / "f.sock", "s3.localSocket": sockets / "s.sock",
    }  # fmt: skip
    for part in PARTS:
        options |= {f"{part}.port": str(ports[part]), f"{part}.port.grpc": str(ports[f"{part}.grpc"])}
    return [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())]


def seaweedfs_environment(access_key: tuple[str, str], home: Path) -> dict[str, str]:
    """Return the environment of SeaweedFS. `access_key`: the id and secret that it accepts.

    With a memory limit of 256 MiB its garbage collector never rests: requests take twice the processor time, idle servers a tenth of a core.
    """
    return {
        "PATH": os.environ["PATH"], "HOME": str(home), "GOMEMLIMIT": "512MiB",
        "AWS_ACCESS_KEY_ID": access_key[0], "AWS_SECRET_ACCESS_KEY": access_key[1],
    }  # fmt: skip


def object_client(endpoint: str, access_key: tuple[str, str], prefix: str = "", *, once: bool = False) -> S3Store:
    """Return a client of the bucket, below a prefix. `once`: it tries each request once, for at most 5 seconds."""
    options: dict[str, Any] = {"client_options": {"allow_http": True}}
    if once:
        options = {"client_options": {"allow_http": True, "timeout": "5s"}, "retry_config": {"max_retries": 0}}
    return S3Store(
        BUCKET, prefix=prefix or None, endpoint=endpoint, access_key_id=access_key[0], secret_access_key=access_key[1],
        region=REGION, **options,
    )  # fmt: skip
