"""Finds the folders from which Podman's generator reads Quadlet units, and reads the units of a project.

A project is one folder. Its units are files directly in it, and their drop-in files `NAME.d/*.conf`. It may be one of Podman's folders, or one
that is linked from there. Every file must be inside the folder, since a release records it. Files are untrusted: they are read
with a limit, never followed out of the folder, and never changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, NotFound, quote

SUFFIXES: Final = (".container", ".image", ".pod", ".volume", ".network", ".kube", ".build")
MAX_UNIT_BYTES: Final = 1024 * 1024
MAX_FILES: Final = 1000
_SYSTEM: Final = ("/run/containers/systemd", "/etc/containers/systemd", "/usr/share/containers/systemd")
DIRS_VARIABLE: Final = "QUADLET_UNIT_DIRS"


class UnitsInvalid(Invalid):
    """Unit files that can't be deployed. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class UnitFolders:
    """Podman's folders, in its order. `written`: the one that gets the link to the drop-ins; `user`: of a rootless Podman."""

    searched: tuple[Path, ...]
    written: Path
    user: bool


@dataclass(frozen=True, slots=True)
class ProjectUnits:
    """The units of a project. `files`: all that was read, by name in `root`; `units`: names; `templates`: of instances that are links."""

    root: Path
    units: tuple[str, ...]
    files: Mapping[str, bytes]
    templates: Mapping[str, str]


def unit_folders(environment: Mapping[str, str], user_id: int) -> UnitFolders:
    """Return the folders of this user's Podman: those of podman-systemd.unit(5), or those that QUADLET_UNIT_DIRS names.

    Raises: UnitsInvalid: that names a relative folder.
    """
    named = [each for each in environment.get(DIRS_VARIABLE, "").split(os.pathsep) if each]
    wrong = next((each for each in named if not Path(each).is_absolute()), None)
    if wrong is not None:
        raise UnitsInvalid(f"{DIRS_VARIABLE} has a relative folder (got {quote(wrong)}, expected an absolute path)")
    if named:
        return UnitFolders(tuple(map(Path, named)), Path(named[0]), user_id != 0)
    if user_id == 0:
        return UnitFolders(tuple(map(Path, _SYSTEM)), Path(_SYSTEM[1]), user=False)
    home = environment.get("HOME", "/")
    own = Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / "containers/systemd"
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{user_id}") / "containers/systemd"
    shared = Path("/etc/containers/systemd/users")
    return UnitFolders((runtime, own, shared / str(user_id), shared), own, user=True)


def read_units(root: Path) -> ProjectUnits:
    """Read the units of a project's folder.

    Raises: NotFound: it has none; UnitsInvalid: a file is outside of the folder, too large, or can't be read.
    """
    real = root.resolve()
    try:
        names = sorted(each.name for each in real.iterdir() if each.suffix in SUFFIXES and not each.is_dir())
    except OSError as error:
        raise NotFound(f"{root} can't be read: {error.strerror}") from error
    if not names:
        raise NotFound(
            f"{root} has no Quadlet unit (expected files such as web.container in the folder itself); name the folder by --project-directory"
        )
    files: dict[str, bytes] = {}
    templates: dict[str, str] = {}
    for name in names:
        if (real / name).is_symlink():
            templates |= _template(real, name)
        for each in (name, *_drop_ins(real, name)):
            files[each] = _read(real, each)
            if len(files) > MAX_FILES:
                raise UnitsInvalid(f"{root} has too many unit files (expected at most {MAX_FILES})")
    return ProjectUnits(real, tuple(names), files, templates)


def _drop_ins(root: Path, name: str) -> list[str]:
    try:
        return sorted(f"{name}.d/{each.name}" for each in (root / f"{name}.d").iterdir() if each.suffix == ".conf")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _template(root: Path, name: str) -> dict[str, str]:
    """Return the template that a link `web@one.container` is an instance of."""
    stem, at, _ = name.rpartition(".")[0].partition("@")
    template = f"{stem}@{Path(name).suffix}"
    return {name: template} if at and Path(os.path.realpath(root / name)) == root / template else {}


def _read(root: Path, name: str) -> bytes:
    path = Path(os.path.realpath(root / name))
    if not path.is_relative_to(root):
        raise UnitsInvalid(
            f"{quote(name)[1:-1]} is a link out of the folder (got {quote(str(path))}, expected a file in {root}); a release "
            "records the files of its folder, so name the other folder or copy the file"
        )
    try:
        with open(path, "rb", opener=_opened) as opened:
            raw = opened.read(MAX_UNIT_BYTES + 1)
    except OSError as error:
        raise UnitsInvalid(f"{quote(name)[1:-1]} can't be read: {error.strerror}") from error
    if len(raw) > MAX_UNIT_BYTES:
        raise UnitsInvalid(f"{quote(name)[1:-1]} is too large (expected at most {MAX_UNIT_BYTES} bytes)")
    if b"\0" in raw:
        raise UnitsInvalid(f"{quote(name)[1:-1]} has a NUL byte; a unit is text")
    return raw


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO does not block
