"""Finds the files of a project by Compose's rules.

Without `-f`, Compose takes COMPOSE_FILE from the environment or `.env`; else the first of four names in the folder or the
nearest parent, with its override.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.errors import Invalid
from boltseal.files.named_files import FileMissing
from boltseal.project.image_references import COMPOSE_NAMES, COMPOSE_OVERRIDES
from boltseal.project.references.dotenv import parse_dotenv
from boltseal.project.references.formats import is_nomad_job
from boltseal.project.source_files import MAX_FILE_BYTES, SourceFile, Unreadable


class NoProject(Invalid):
    """A project's Compose files are missing or can't be used."""


def named_files(project: ProjectFiles, environment: Mapping[str, str]) -> ProjectFiles:
    """Return the project with the absolute paths of its Compose files.

    Raises: NoProject.
    """
    files = project.files or tuple(_default_files(project.directory, environment))
    absolute = tuple(Path(os.path.abspath(project.directory / each)) for each in files)  # noqa: PTH100 - links stay
    for file, named in zip(absolute, files, strict=True):
        if named.name == "-":
            raise NoProject("a project on standard input can't be recorded; name a file")
        if not file.is_file():
            raise FileMissing(named)
        if is_nomad_job(_source(file)):
            raise NoProject(
                f"{named} is a Nomad job, which boltseal does not deploy: pin it by `boltseal pin --write {named}`, then "
                "run `nomad job run`"
            )
    if not absolute:
        raise NoProject(f"no {COMPOSE_NAMES[0]} in {project.directory} or above it; name a Compose file with -f")
    return replace(project, files=absolute, env_files=tuple(project.directory / each for each in project.env_files))


def overrides_of(files: Sequence[Path]) -> list[Path]:
    """Return the override beside a single default Compose file; Compose reads it only when no `-f` is given."""
    if len(files) != 1 or files[0].name not in COMPOSE_NAMES:
        return []
    return [beside for name in COMPOSE_OVERRIDES if (beside := files[0].with_name(name)).is_file()][:1]


def project_folder(project: ProjectFiles) -> Path:
    """Return the folder that the project's paths are relative to, by Compose's rules."""
    return project.project_directory or project.files[0].parent


def _default_files(directory: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    listed = environment.get("COMPOSE_FILE") or _in_dotenv(directory, "COMPOSE_FILE")
    if listed:
        yield from (Path(each) for each in listed.split(environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep))
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
    """Return a variable's value in `.env`, None if unset or unreadable; Compose itself reports an unreadable `.env`."""
    path = directory / ".env"
    if not path.is_file():
        return None
    source = _source(path)
    try:
        found = None if source is None else parse_dotenv(source).values.get(name)
    except Unreadable:
        return None
    return None if found is None else found.text


def _source(path: Path) -> SourceFile | None:
    """Return the text of a file, None if it can't be read: Compose itself reports that."""
    try:
        with path.open("rb") as file:
            return SourceFile.of(path.name, file.read(MAX_FILE_BYTES))
    except (OSError, Unreadable):
        return None
