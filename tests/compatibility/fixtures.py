"""Files that an earlier revision wrote, always opened as a copy, and the command lines of that revision.

`tests/data/compatibility/REVISION/` has one set of fixtures; its README says how they were made. The tests call the
program as a user does. If a command or a setting is renamed, only the tables here change; the fixtures never do.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

#: The present command line of each command that the tests name.
COMMANDS: Final = {
    "accept": ("tag", "accept"),
    "backup": ("admin", "backup"),
    "deploy": ("deploy",),
    "digest": ("digest",),
    "fsck": ("admin", "fsck"),
    "history": ("history",),
    "kept images": ("keep", "ls"),
    "ledger key": ("ledger", "key"),
    "ledger monitor": ("ledger", "monitor"),
    "lock": ("lock",),
    "outdated": ("outdated",),
    "pin": ("pin",),
    "pull": ("pull",),
    "purge": ("tag", "purge"),
    "receipt": ("ledger", "receipt"),
    "receipt verify": ("ledger", "receipt", "verify"),
    "release difference": ("release", "diff"),
    "releases": ("release", "ls"),
    "restore backup": ("admin", "restore"),
    "restore tag": ("tag", "restore"),
    "rollback": ("rollback",),
    "seal": ("tag", "seal"),
    "trust": ("ledger", "trust"),
    "unseal": ("tag", "unseal"),
    "user add": ("admin", "user", "add"),
    "user list": ("admin", "user", "ls"),
    "verify": ("verify",),
    "watch": ("watch",),
}

HERE: Final = Path(__file__).parent.parent / "data" / "compatibility"
REVISIONS: Final = tuple(sorted(path.name for path in HERE.iterdir() if path.is_dir()))

# The fixtures have these addresses: locks, releases and a client's state name their registry.
PORT: Final = 18765
REGISTRY: Final = f"127.0.0.1:{PORT}"
UPSTREAM_PORT: Final = 18766
RECEIVER_PORT: Final = 18767
WITNESS_PORT: Final = 18768
DEPLOY_PORT: Final = 18769
UPSTREAM: Final = f"127.0.0.1:{UPSTREAM_PORT}"
ENGINE: Final = Path("/tmp/boltseal-compatibility/engine/d.sock")

PASSWORDS: Final = {"ci": "a test's password", "boss": "another test's password"}

CONFIG: Final = """\
[auth]
anonymous_pull = true

[[auth.grant]]
users = ["ci"]
actions = ["pull", "push"]

[[auth.grant]]
users = ["boss"]
actions = ["pull", "push", "delete", "ledger", "admin"]

[ledger]
origin = "registry.test"
public = true

[[rule]]
repository = "archive/**"
keep = "deletable"
"""

MIRROR: Final = f"""
[[upstream]]
name = "up.example"
url = "http://{UPSTREAM}"
fresh = "0s"
push = true

[[upstream.rule]]
repository = "team/app"
tag = "reviewed"
on_move = "hold"
"""


def receiver_table(port: int = RECEIVER_PORT) -> str:
    """Return the configuration table, the server's or the user's, that names a receiver of events."""
    return f'\n[[notify]]\nname = "operators"\nurl = "http://127.0.0.1:{port}/hook"\n'


def witness_table(key: str) -> str:
    """Return the configuration table that names a witness."""
    return f'\n[[witness]]\nurl = "http://127.0.0.1:{WITNESS_PORT}"\nkey = "{key}"\n'


def expected(revision: str) -> dict[str, Any]:
    """Return what the revision's own program answered when the fixtures were made."""
    found: dict[str, Any] = json.loads((HERE / revision / "expected.json").read_text())
    return found


def copied(revision: str, name: str, folder: Path) -> Path:
    """Copy one part of the fixtures, with the private modes that the program uses."""
    source, target = HERE / revision / name, folder / name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        with tarfile.open(HERE / revision / f"{name}.tar.gz") as tar:
            tar.extractall(target, filter="data")
    for path in (target, *target.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path)  # a present time, since an upload that is idle for a week is deleted
    return target


def packed(folder: Path, archive: Path) -> None:
    """Return a folder as an archive: equal files give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.mode = stat.S_IMODE(path.stat().st_mode)
            if path.is_dir():
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                content = path.read_bytes()
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    archive.write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder with its SHA-256, without the files that SQLite creates for reading."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.name.endswith("-shm")
        and not (path.name.endswith("-wal") and not path.stat().st_size)
    }


def login(folder: Path, user: str, registry: str = REGISTRY) -> Path:
    """Return a folder for DOCKER_CONFIG in which a user is logged in."""
    folder.mkdir(parents=True, exist_ok=True)
    token = b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry: {"auth": token}}}))
    return folder


@contextmanager
def addresses() -> Iterator[None]:
    """Reserve the fixtures' addresses for one process of this machine at a time."""
    with (Path(tempfile.gettempdir()) / "boltseal-compatibility.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
