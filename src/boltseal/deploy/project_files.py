"""The files that a project consists of, found as Compose finds them.

Compose takes, where it is told none: COMPOSE_FILE of the environment or of `.env`; else the first of four names in the
folder or the nearest above it, with its override beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.errors import Invalid, quote
from boltseal.project.image_references import COMPOSE_NAMES, COMPOSE_OVERRIDES
from boltseal.project.references.dotenv import parse_dotenv
from boltseal.project.source_files import MAX_FILE_BYTES, SourceFile, Unreadable


class NoProject(Invalid):
    """There are no Compose files there."""


def named_files(project: ProjectFiles, environment: Mapping[str, str]) -> ProjectFiles:
    """The project with its Compose files named, each with its whole path. NoProject."""
    files = project.files or tuple(_found(project.directory, environment))
    whole = tuple(Path(os.path.abspath(project.directory / each)) for each in files)  # noqa: PTH100 - links stay
    for file, named in zip(whole, files, strict=True):
        if named.name == "-":
            raise NoProject("a project on standard input can't be recorded; give the name of a file")
        if not file.is_file():
            raise NoProject(f"{quote(str(named), 300)}: there is no such file; -f names a Compose file")
    if not whole:
        raise NoProject(f"no {COMPOSE_NAMES[0]} in {project.directory} or above it; -f names a Compose file")
    return replace(project, files=whole, env_files=tuple(project.directory / each for each in project.env_files))


def overrides_of(files: Sequence[Path]) -> list[Path]:
    """The override beside a file that stands alone: Compose reads it only where it is told no file at all."""
    if len(files) != 1 or files[0].name not in COMPOSE_NAMES:
        return []
    return [beside for name in COMPOSE_OVERRIDES if (beside := files[0].with_name(name)).is_file()][:1]


def project_folder(project: ProjectFiles) -> Path:
    """The folder to which the project's paths are relative, as Compose has it."""
    return project.project_directory or project.files[0].parent


def _found(directory: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    said = environment.get("COMPOSE_FILE") or _in_dotenv(directory, "COMPOSE_FILE")
    if said:
        yield from (Path(each) for each in said.split(environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep))
        return
    for folder in (directory, *directory.resolve().parents):
        first = next((folder / name for name in COMPOSE_NAMES if (folder / name).is_file()), None)
        if first is not None:
            yield first
            override = next((folder / name for name in COMPOSE_OVERRIDES if (folder / name).is_file()), None)
            if override is not None:
                yield override
            return


def _in_dotenv(directory: Path, name: str) -> str | None:
    """What `.env` says of a variable; of one that can't be read Compose says so, as soon as it is asked."""
    path = directory / ".env"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            found = parse_dotenv(SourceFile.of(".env", file.read(MAX_FILE_BYTES))).values.get(name)
    except (OSError, Unreadable):
        return None
    return None if found is None else found.text
