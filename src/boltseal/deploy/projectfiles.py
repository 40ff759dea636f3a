"""The files that a project consists of: found as Compose finds them, and read as they are.

Compose takes, where it is told none: COMPOSE_FILE of the environment or of `.env`; else the first of four names in the
folder or the nearest above it, with its override beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.deploy.composing import ProjectFiles
from boltseal.errors import Invalid, NotFound, quote
from boltseal.pin.dotenv import parse_dotenv
from boltseal.pin.edit import Change
from boltseal.pin.replace import replace_all
from boltseal.pin.scan import scan_project
from boltseal.pin.source import MAX_FILE_BYTES, Project, Source, Unreadable

NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
_OVERRIDES: Final = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
MAX_RECORDED_BYTES: Final = 16 * 1024 * 1024


class FilesGone(NotFound):
    """A recorded file has no place any more to which it could be put back."""


class NoProject(Invalid):
    """There are no Compose files there."""


def named_files(project: ProjectFiles, environment: Mapping[str, str]) -> ProjectFiles:
    """The project with its Compose files named, each with its whole path. NoProject."""
    files = project.files or tuple(_found(project.directory, environment))
    whole = tuple(Path(os.path.abspath(project.directory / each)) for each in files)  # noqa: PTH100 - links stay
    for file, named in zip(whole, files, strict=True):
        if str(named) == "-":
            raise NoProject("a project on standard input can't be recorded; give the name of a file")
        if not file.is_file():
            raise NoProject(f"{quote(str(named))}: there is no such file; -f names a Compose file")
    if not whole:
        raise NoProject(f"no {NAMES[0]} in {project.directory} or above it; -f names a Compose file")
    return replace(project, files=whole, env_files=tuple(project.directory / each for each in project.env_files))


def overrides_of(files: Sequence[Path]) -> list[Path]:
    """The override beside a file that stands alone: Compose reads it only where it is told no file at all."""
    if len(files) != 1 or files[0].name not in NAMES:
        return []
    return [beside for name in _OVERRIDES if (beside := files[0].with_name(name)).is_file()][:1]


def project_folder(project: ProjectFiles) -> Path:
    """The folder to which the project's paths are relative, as Compose has it."""
    return project.project_directory or project.files[0].parent


def _found(directory: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    said = environment.get("COMPOSE_FILE") or _in_dotenv(directory, "COMPOSE_FILE")
    if said:
        yield from (Path(each) for each in said.split(environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep))
        return
    for folder in (directory, *directory.resolve().parents):
        first = next((folder / name for name in NAMES if (folder / name).is_file()), None)
        if first is not None:
            yield first
            override = next((folder / name for name in _OVERRIDES if (folder / name).is_file()), None)
            if override is not None:
                yield override
            return


def _in_dotenv(directory: Path, name: str) -> str | None:
    try:
        found = parse_dotenv(Source.of(".env", (directory / ".env").read_bytes())).values.get(name)
    except (OSError, Unreadable):
        return None
    return None if found is None else found.text


@dataclass(frozen=True, slots=True)
class Recorded:
    """The files as they are, by their path in the project; those outside of it by their whole path."""

    root: Path
    files: Mapping[str, bytes]


def recorded_files(project: ProjectFiles) -> Recorded:
    """Every file that says something of the project: Compose files, what they include or extend, and `.env`s.

    The files of `env_file` are not among them: what they say is in the project as Compose resolved it.
    """
    root = project_folder(project).resolve()
    scanned = Project(root)
    inside = [file for file in project.files if file.resolve().is_relative_to(root)]
    scan_project(scanned, inside)
    files = {name: source.raw for name, source in scanned.texts().items()}
    for file in (*project.files, *project.env_files, project.directory / ".env"):
        raw = _raw(file)
        if raw is not None:
            real = file.resolve()
            name = real.relative_to(root).as_posix() if real.is_relative_to(root) else str(real)
            files[name] = raw
    if sum(map(len, files.values())) > MAX_RECORDED_BYTES:
        raise NoProject(f"the project's files have more than {MAX_RECORDED_BYTES // 2**20} MiB; that is no project")
    return Recorded(root, files)


def _raw(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoProject(f"{file} can't be read: {error.strerror}") from error


def differing(root: Path, files: Mapping[str, bytes]) -> Sequence[str]:
    """The recorded files of the project that are not any more what was recorded."""
    return [name for name, raw in sorted(files.items()) if _raw(root / name) != raw]


def put_files_back(root: Path, files: Mapping[str, bytes], names: Sequence[str]) -> None:
    """Write these recorded files into the project again: all of them or none. FileChanged, FilesNotWritten, FilesGone.

    A file that is not there any more, or that is not in the project, is not made: it is told.
    """
    changes = []
    for name in names:
        now = None if Path(name).is_absolute() else _raw(root / name)
        if now is None:
            raise FilesGone(f"{name} is not in the project any more; nothing was put back: bring it back by hand")
        changes.append(Change(Source.of(name, now), Source.of(name, files[name])))
    replace_all(root.resolve(), changes)
