"""The name of a Compose project, and the services that it starts by default.

Compose itself is not run, because it may exist only on the host. The name is COMPOSE_PROJECT_NAME from the `.env`
beside the file, else the file's `name:`, else the folder's name, normalised as Compose does. Shell variables are not
known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.files.named_files import FileMissing
from boltseal.project.image_references import COMPOSE_NAMES
from boltseal.project.references.dotenv import Variables, parse_dotenv
from boltseal.project.references.interpolation import Dialect, InterpolationFailed, fill
from boltseal.project.references.yaml_nodes import Pairs, compose, pairs, text_of
from boltseal.project.source_files import MAX_FILE_BYTES, SourceFile, Unreadable

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VARIABLE: Final = "COMPOSE_PROJECT_NAME"


class ComposeProjectInvalid(Invalid):
    """A Compose file that can't be read, or whose project has no valid name."""


@dataclass(frozen=True, slots=True)
class ComposeProject:
    """A project. `services`: those started without a profile and with at least one replica."""

    name: str
    services: tuple[str, ...]


def compose_project(file: Path) -> ComposeProject:
    """Return the project of a Compose file, or of the one in a folder.

    Raises: ComposeProjectInvalid: the file can't be read, or the project has no valid name.
    """
    path = _in_folder(file) if file.is_dir() else file
    source = _read(path)
    if source is None:
        raise FileMissing(path)
    dotenv = _read(path.parent / ".env")
    try:
        values = Variables(() if dotenv is None else (parse_dotenv(dotenv),))
        documents = compose(source)
    except Unreadable as error:
        raise ComposeProjectInvalid(f"{path.parent / error.problem.path}: {error.problem.message}") from error
    root = pairs(documents[0]) if documents else {}
    services = tuple(name for name, service in pairs(root.get("services")).items() if _is_started(pairs(service)))
    return ComposeProject(_name(text_of(root.get("name")), values, path), services)


def _in_folder(folder: Path) -> Path:
    return next((folder / name for name in COMPOSE_NAMES if (folder / name).is_file()), folder / COMPOSE_NAMES[0])


def _read(path: Path) -> SourceFile | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ComposeProjectInvalid(f"{path}: it has more than {MAX_FILE_BYTES} bytes; expected a Compose file")
        return SourceFile.of(path.name, raw)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ComposeProjectInvalid(f"{path} can't be read: {error.strerror}") from error
    except Unreadable as error:
        raise ComposeProjectInvalid(f"{path}: {error.problem.message}") from error


def _name(written: str | None, values: Variables, file: Path) -> str:
    try:
        name = values.get(_VARIABLE) or ("" if written is None else fill(written, values.get, Dialect.COMPOSE).text)
    except InterpolationFailed as error:
        shown = _VARIABLE if written is None else quote(written)
        raise ComposeProjectInvalid(f"{file}: the project's name {shown} can't be evaluated: {error}") from error
    if not name and written is None:
        name = re.sub(r"[^a-z0-9_-]", "", file.resolve().parent.name.lower()).lstrip("_-")
    if _NAME.fullmatch(name) is None:
        raise ComposeProjectInvalid(f"{file}: {quote(name)} is not a valid project name; expected a-z, 0-9, _ and -")
    return name


def _is_started(service: Pairs) -> bool:
    replicas = text_of(pairs(service.get("deploy")).get("replicas")) or text_of(service.get("scale"))
    return "profiles" not in service and replicas != "0"
