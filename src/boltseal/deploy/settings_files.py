"""The settings of a project that lie in files of their own: which of them belong to a release, and restoring them.

To a release belong

1. the files of `env_file`, and the files of secrets and configs;
2. of bind mounts regular files inside the project's folder: mounted singly, or in a folder that is mounted read-only.

Each has at most MAX_FILE_BYTES, and all together at most MAX_ALL_BYTES. Never recorded is what a container can write: a folder that
is mounted with write access, and any file in it (`./data:/var/lib/postgresql/data`). What is left out is listed, with the reason.

Files of `env_file`, which only Compose reads, are restored with mode 0600; other files with the mode that they had, since containers
read them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from boltseal.deploy.mounted_copies import MountedFile
from boltseal.deploy.source_snapshot import content_now
from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.files.folder_lock import folder_locked
from boltseal.project.replace_files import FileChanged

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_ALL_BYTES: Final = 16 * 1024 * 1024
MAX_ENTRIES: Final = 10_000
_TOO_LARGE: Final = f"larger than {MAX_FILE_BYTES // 2**20} MiB"
PRIVATE: Final = 0o600
_MODES: Final = 0o777  # a release from the engine never makes a program that runs with another user's rights


@dataclass(slots=True)
class SettingsFiles:
    """The recorded files. `modes`: with which they are restored. Names are relative to the project, or absolute outside of it.

    `owners`: of those that are not private. `recorded`: returns what the running release has of a file that this user can't read, None
    if it may have changed; `unread`: such files. `outside`: what is mounted and not part of the release, each with the reason.
    """

    root: Path
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    owners: dict[str, tuple[int, int]] = field(default_factory=dict)
    recorded: Callable[[Path], MountedFile | None] = lambda _path: None
    unread: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def add(self, path: Path, *, private: bool) -> None:
        """Record a file, or list why it is not."""
        name = self._name(path)
        if name in self.files:
            return
        try:
            status = path.lstat()
            why = _why_not(path, status)
            if why is None and sum(map(len, self.files.values())) + status.st_size > MAX_ALL_BYTES:
                why = f"all files together have more than {MAX_ALL_BYTES // 2**20} MiB"
            raw = b"" if why is not None else _read(path)
            if len(raw) > MAX_FILE_BYTES:  # it grows
                why = _TOO_LARGE
            if why is None and private:
                self.files[name], self.modes[name] = raw, PRIVATE
            elif why is None:
                self._add(name, MountedFile(raw, (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)))
        except OSError as error:
            known = self.recorded(path) if isinstance(error, PermissionError) else None
            if known is not None:
                self._add(name, known)
                self.unread.append(name)
                return
            why = f"it can't be read: {error.strerror}"
        if why is not None:
            self.outside.append(f"{name}: {why}")

    def _add(self, name: str, file: MountedFile) -> None:
        self.files[name], self.modes[name], self.owners[name] = file.content, file.mode, file.owner

    def leave_out(self, path: Path, why: str) -> None:
        """List what is not part of the release."""
        self.outside.append(f"{self._name(path)}: {why}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def settings_files(
    root: Path,
    document: Mapping[str, Any],
    sources: Mapping[str, bytes],
    filled: Mapping[str, str] | None = None,
    recorded: Callable[[Path], MountedFile | None] = lambda _path: None,
) -> SettingsFiles:
    """Return the settings of a project. `document`: as Compose resolved it; `sources`: its own files, by their names.

    `filled`: the paths of `paths_with_variables`, with the variables' values. `recorded`: see `SettingsFiles`.
    """
    found = SettingsFiles(root, recorded=recorded)
    for path in sorted(set(_env_files(root, sources, filled or {}))):
        found.add(path, private=True)
    for kind in ("secrets", "configs"):
        for each in (document.get(kind) or {}).values():
            if isinstance(each, Mapping) and isinstance(each.get("file"), str):
                found.add(Path(each["file"]), private=False)
    _add_mounts(found, document)
    found.outside = list(dict.fromkeys(found.outside))
    return found


@dataclass(frozen=True, slots=True)
class _Mount:
    source: Path
    read_only: bool


def _mounts(document: Mapping[str, Any]) -> Iterator[_Mount]:
    for service in (document.get("services") or {}).values():
        for each in service.get("volumes") or ():
            if isinstance(each, Mapping) and each.get("type") == "bind" and each.get("source"):
                yield _Mount(Path(os.path.normpath(str(each["source"]))), bool(each.get("read_only")))


def _add_mounts(found: SettingsFiles, document: Mapping[str, Any]) -> None:
    mounts = sorted(set(_mounts(document)), key=lambda each: (str(each.source), each.read_only))
    real_root = found.root.resolve()
    writable = [each.source for each in mounts if not each.read_only and each.source.is_dir()]
    for mount in mounts:
        path = mount.source
        if not path.resolve().is_relative_to(real_root):
            found.leave_out(path, "outside the project's folder")
        elif any(path.resolve().is_relative_to(folder.resolve()) for folder in writable):
            found.leave_out(path, "a container can write it")
        elif path.is_dir():
            _add_folder(found, path, writable)
        else:
            found.add(path, private=False)


def _add_folder(found: SettingsFiles, folder: Path, writable: list[Path]) -> None:
    """Record the files of a folder that is mounted read-only."""
    entries = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = [each for each in sorted(folders) if Path(parent, each) not in writable]
        entries += len(folders) + len(names)
        if entries > MAX_ENTRIES:
            found.leave_out(folder, f"it has more than {MAX_ENTRIES} entries")
            return
        for name in sorted(names):
            found.add(Path(parent, name), private=False)


def _why_not(path: Path, status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size > MAX_FILE_BYTES:
        return _TOO_LARGE
    return None


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def paths_with_variables(sources: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the paths of `env_file` that contain variables, as written."""
    return tuple(sorted({text for _, text in _env_file_paths(sources) if "$" in text}))


def _env_files(root: Path, sources: Mapping[str, bytes], filled: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files of `env_file`. Compose puts their values into its resolved text, which does not name them.

    Paths are relative to the project's folder, in an included file to that file's folder.
    """
    for name, written in _env_file_paths(sources):
        text = filled.get(written, "") if "$" in written else written
        candidates = (root / text, (root / name).parent / text) if text else ()
        yield from [Path(os.path.normpath(each)) for each in candidates if each.exists()][:1]


def _env_file_paths(sources: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield each path of `env_file` as written, after the name of its file."""
    for name, raw in sources.items():
        with suppress(yaml.YAMLError, UnicodeDecodeError, RecursionError):
            for document in yaml.compose_all(raw.decode(), Loader=yaml.SafeLoader):
                yield from ((name, text) for text in _env_file_values(document))


def _env_file_values(node: object) -> Iterator[str]:
    services = _value(node, "services")
    for _, service in services.value if isinstance(services, yaml.MappingNode) else ():
        value = _value(service, "env_file")
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for each in items:
            path = _value(each, "path") if isinstance(each, yaml.MappingNode) else each
            if isinstance(path, yaml.ScalarNode) and path.value:
                yield path.value


def _value(node: object, key: str) -> object:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                return value
    return None


def write_settings(
    root: Path,
    files: Mapping[str, bytes | None],
    modes: Mapping[str, int],
    before: Mapping[str, bytes | None] | None = None,
) -> None:
    """Write these files into the project, each atomically, with their modes. None removes a file.

    `before`: what the files were when they were read; default: not compared. A container with a single file mounted sees the new
    content when it is started again.

    Raises: FileChanged: a file is no longer what was read; Unavailable: a file can't be written.
    """
    for name, raw in files.items():
        path = root / name
        try:
            if not (path.parent.resolve() / path.name).is_relative_to(root.resolve()):
                raise Unavailable(f"{name} can't be restored: it is outside of the project")
            path.parent.mkdir(parents=True, exist_ok=True)
            real = path.resolve()
            if not real.is_relative_to(root.resolve()):
                raise Unavailable(f"{name} can't be restored: a symbolic link points out of the project")
            with folder_locked(real.parent):
                if before is not None and content_now(real) != before[name]:
                    raise FileChanged.of(name)
                _write(real, raw, modes.get(name, PRIVATE) & _MODES)
        except OSError as error:
            raise Unavailable(f"{name} can't be restored: {error.strerror}; restore it by hand") from error


def _write(path: Path, raw: bytes | None, mode: int) -> None:
    if raw is None:
        path.unlink(missing_ok=True)
        return
    owner = path.stat() if path.exists() else None
    write_file(Disk(), path, raw, PRIVATE)
    if owner is not None:
        with suppress(PermissionError):
            os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(mode)
