"""What the verbs on a project share: which files, whom they may ask, and the lock beside them."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from boltseal.cli.answer import say
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.commands.text import clean
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from boltseal.cli.answer import CommandOutput
    from boltseal.client.ledger_trust import LedgerCheck
    from boltseal.client.transport import Transport
    from boltseal.lockfile.document import Lock
    from boltseal.oci.reference import Reference
    from boltseal.project.edits import ScanRequest
    from boltseal.project.image_references import ImageReference, ScanProblem, ScanResult
    from boltseal.project.settings import ProjectSettings

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]...", show_default=False, help="Files and folders of the project. Default: all of it."
    ),
]
ProjectOption = Annotated[
    Path, typer.Option("--project", metavar="DIR", help="The project: where boltseal.lock and .boltseal.toml are.")
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="HOST", show_default=False, help="A registry that the project may name, too."),
]


MAX_EMPTY: Final = 3
"""How many paths the message names when no image reference was found in them."""


class NoSuchPath(Invalid):
    """A path that is not there, or is outside of the project."""


@dataclass(frozen=True, slots=True)
class OpenedProject:
    """A project as the verbs see it: the sites that are looked at, what could not be read, and its own settings.

    `notes`: what is not evaluated, and is filled in from what is.

    `asked` and `found` are the scan behind it, files that the project excludes included.
    """

    root: Path
    settings: ProjectSettings
    sites: tuple[ImageReference, ...]
    problems: tuple[ScanProblem, ...]
    notes: tuple[ScanProblem, ...]
    paths: tuple[str, ...]
    asked: ScanRequest
    found: ScanResult

    @property
    def registries(self) -> frozenset[str]:
        """Every registry that its files name."""
        return frozenset(site.resolved.registry for site in self.sites if site.resolved is not None)

    @property
    def empty(self) -> bool:
        """Whether no image reference was found, though every file could be read."""
        return not self.sites and not self.problems

    def outside(self, path: str) -> bool:
        """Whether a file was not looked at this time, because others were named."""
        return bool(self.paths) and not any(path == each or path.startswith(f"{each}/") for each in self.paths)


def open_project(root: Path, paths: Sequence[Path]) -> OpenedProject:
    """Scan a project, or these files and folders of it. NoSuchPath, ProjectInvalid."""
    from boltseal.project.edits import ScanRequest
    from boltseal.project.scan import scan_project
    from boltseal.project.settings import project_settings
    from boltseal.project.source_files import ProjectTree as Files

    if not os.path.isdir(root):  # noqa: PTH112 - says no where pathlib breaks, as of a name that is too long
        raise NoSuchPath(f"{quote(str(root))} is no folder; --project names the folder of a project")
    settings = project_settings(root)
    inside = [_inside(root, path) for path in paths]
    asked = ScanRequest(Files(root), [Path(each) for each in inside] if all(inside) else [], settings.crds)
    with many_values():
        found = scan_project(asked.project, asked.paths, crds=asked.crds)
    return OpenedProject(
        root,
        settings,
        tuple(site for site in found.sites if not settings.excludes(site.path)),
        tuple(problem for problem in found.problems if not settings.excludes(problem.path)),
        tuple(note for note in found.notes if not settings.excludes(note.path)),
        tuple(inside) if all(inside) else (),
        asked,
        found,
    )


@contextmanager
def many_values() -> Iterator[None]:
    """Python does not look for circles among the values of a large project: there are none, and it takes a fifth of the time."""
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()


def _inside(root: Path, path: Path) -> str:
    """A path relative to the project, with `/`; "" for all of it."""
    if not is_there(path):
        raise NoSuchPath(f"{quote(str(path))}: there is no such file or folder")
    base = root.resolve()
    whole = path.resolve()
    if not whole.is_relative_to(base):
        raise NoSuchPath(f"{quote(str(path))} is not in the project {quote(str(root))}; --project names another one")
    relative = whole.relative_to(base).as_posix()
    return "" if relative == "." else relative


def path_of(root: Path, text: str) -> Path:
    """A path as it was typed: from where we are if it is there, else from the project's root."""
    path = Path(text)
    return path if is_there(path) else root / text


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; a name that can't be one is not there."""
    return os.path.exists(path)  # noqa: PTH110 - says no where pathlib breaks, as of a name that is too long


def whom_to_ask(reach: RegistryOptions, more: Sequence[str]) -> Callable[[str], bool]:
    """Which registries a project may make us talk to: what the user's own file, logins and flags say. ProjectInvalid."""
    from boltseal.client.credentials import CredentialStore
    from boltseal.config import client_paths
    from boltseal.project.settings import allowed_registries, check_registry, client_settings

    for name in more:
        check_registry(name, "--allow")
    paths = client_paths()
    logins = frozenset[str]() if reach.anonymous else CredentialStore(paths.logins).named()
    return allowed_registries(client_settings(paths.settings), logins, more)


def watching(
    reach: RegistryOptions, transport: Transport, lock: Lock | None
) -> Callable[[str], Awaitable[LedgerCheck]]:
    """How the ledgers of registries are followed: also by the keys that the project's lock names. LockInvalid."""
    from boltseal.ledger.note import KeyInvalid, VerifierKey
    from boltseal.lockfile.document import LOCK_NAME, LockInvalid

    keys: dict[str, VerifierKey] = {}
    for registry, key in {} if lock is None else lock.keys.items():
        try:
            keys[registry] = VerifierKey.parse(key)
        except KeyInvalid as error:
            raise LockInvalid(f"{LOCK_NAME}: the key of {registry} is none: {error.message}") from error
    return lambda registry: followed(reach, transport, registry, keys.get(registry))


def tell_empty(answer: CommandOutput, opened: OpenedProject) -> str:
    """Report that no image reference was found; the whole reason."""
    where = ", ".join(quote(str(opened.root / path)) for path in opened.paths[:MAX_EMPTY]) or quote(str(opened.root))
    more = len(opened.paths) - MAX_EMPTY
    where += f" and {more} more" if more > 0 else ""
    return answer.nothing_to_check(
        f"found 0 image references in {where}", "check PATH, --project and `exclude` in .boltseal.toml"
    )


def tell_unread(answer: CommandOutput, opened: OpenedProject) -> None:
    """What could not be read, and what is not evaluated, each with its place."""
    for status, problems in (("unreadable", opened.problems), ("template", opened.notes)):
        for problem in problems:
            answer.add(ref="", status=status, reason=problem.message, file=problem.path, line=problem.line)
            say(clean(f"boltseal: {problem}"))


def split_arguments(root: Path, arguments: Sequence[str], *, references: bool) -> tuple[list[Path], list[Reference]]:
    """What was typed, as paths and (where `references` may be named) as references. What is there as a file is a path."""
    from boltseal.oci.reference import Reference

    paths, named = [], []
    for text in arguments:
        path = path_of(root, text)
        if not references or is_there(path):
            paths.append(path)
            continue
        try:
            named.append(Reference.parse(text))
        except Invalid as error:
            raise NoSuchPath(
                f"{quote(text)} is neither a file of the project nor a reference: {error.message}"
            ) from error
    return paths, named
