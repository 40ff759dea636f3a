"""A user of a separate disk: listed in the disk's /etc, with container ids, and unknown to this machine."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import program

NAME, UID, FIRST = "shop", 12345, 200_000


@dataclass(frozen=True, slots=True)
class Disk:
    """The root of a disk that has `etc` and the user's home."""

    root: Path

    @property
    def home(self) -> Path:
        """Return the user's home folder."""
        return self.root / "home" / NAME

    def as_root(self) -> tuple[str, ...]:
        """Return the command prefix that runs a command in its own mount namespace, where it sees the disk's /etc."""
        mounts = "; ".join(
            f"mount --bind '{self.root}/etc/{each}' /etc/{each}" for each in ("passwd", "group", "subuid", "subgid")
        )
        return program("unshare"), "--mount", program("sh"), "-c", f'{mounts}; exec "$@"', "sh"

    def as_user(self) -> tuple[str, ...]:
        """Run a command as the user, without the environment of this process."""
        return (
            *(*self.as_root(), program("setpriv"), f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
            *("env", "-i", f"PATH={os.environ['PATH']}", f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.home}/run"),
        )

    def ended(self) -> None:
        """End the user's remaining processes: Podman leaves one that keeps its user namespace."""
        home = f"HOME={self.home}".encode()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if home in environment.read_bytes().split(b"\0"):
                    os.kill(int(environment.parent.name), signal.SIGKILL)


def ids_given(root: Path, first: int) -> None:
    """Give a user of the disk at `root` container ids from `first` on."""
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("containers:x:900:900::/:/bin/sh\n")
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(f"containers:{first}:65536\n")


def given_to_others(folder: Path, by: int) -> None:
    """Change all owners in a folder, then restore the modes that the kernel removed by that."""
    inodes: set[int] = set()
    for path in (folder, *folder.rglob("*")):
        at = path.lstat()
        if at.st_ino in inodes:
            continue
        inodes.add(at.st_ino)
        names = os.listxattr(path, follow_symlinks=False)
        rights = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        os.chown(path, at.st_uid + by, at.st_gid + by, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(at.st_mode))
        for name, value in rights.items():
            os.setxattr(path, name, value, follow_symlinks=False)


def user_namespaces_or_skip() -> None:
    """Skip where the kernel permits no user namespaces, as in a chroot."""
    if subprocess.run([program("unshare"), "--user", program("true")], capture_output=True, check=False).returncode:
        pytest.skip("the kernel makes no user namespace here, as in every chroot: no engine can run without root")


def disk(root: Path) -> Disk:
    """An empty disk, every parent folder of which the user may enter."""
    user_namespaces_or_skip()
    (root / "etc").mkdir(parents=True)
    for name, line in (("passwd", f"{NAME}:x:{UID}:{UID}::{root}/home/{NAME}:/bin/sh"), ("group", f"{NAME}:x:{UID}:")):
        (root / "etc" / name).write_text((Path("/etc") / name).read_text() + line + "\n")
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(f"{NAME}:{FIRST}:65536\n")
    made = Disk(root)
    (made.home / "run").mkdir(parents=True)
    for path in (made.home, made.home / "run"):
        os.chown(path, UID, UID)
    for above in (root, *root.parents):
        if above.stat().st_mode & 0o005 != 0o005:
            above.chmod(above.stat().st_mode | 0o055)
    return made
