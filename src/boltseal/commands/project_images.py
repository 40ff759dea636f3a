"""The image references of a project: scan it, and map command-line arguments to its files."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.errors import Invalid, quote
from boltseal.files.named_files import FileMissing
from boltseal.ledger.note import KeyInvalid, VerifierKey
from boltseal.lockfile.document import LOCK_NAME, Lock, LockInvalid
from boltseal.oci.reference import Reference
from boltseal.project.edits import ScanRequest
from boltseal.project.ignored import IgnoredReference, IgnoreRule, ignored_by, problem_ignored_by
from boltseal.project.image_references import ImageReference, ScanProblem, ScanResult
from boltseal.project.scan import scan_project
from boltseal.project.settings import (
    ProjectSettings,
    allowed_registries,
    check_registry,
    project_settings,
)
from boltseal.project.source_files import ProjectTree


@dataclass(frozen=True, slots=True)
class OpenedProject:
    """A scanned project.

    Attributes:
        image_refs: its image references, without those that its settings exclude or ignore.
        problems: files that could not be read.
        notes: templates that are not evaluated.
        unknown: values that look like images, and that no reader understands.
        ignored: the references that its settings ignore.
        ignored_problems: what could not be read, evaluated or understood and its settings ignore, with the reason for that.
        paths: the files and folders that the scan was limited to; () for the whole project.
        asked: the scan's request.
        found: the scan's whole result, excluded files included.
    """

    root: Path
    settings: ProjectSettings
    image_refs: tuple[ImageReference, ...]
    problems: tuple[ScanProblem, ...]
    notes: tuple[ScanProblem, ...]
    unknown: tuple[ScanProblem, ...]
    paths: tuple[str, ...]
    asked: ScanRequest
    found: ScanResult
    ignored: tuple[IgnoredReference, ...] = ()
    ignored_problems: tuple[tuple[ScanProblem, str], ...] = ()

    @property
    def registries(self) -> frozenset[str]:
        """Every registry that the project's files name."""
        return frozenset(image_ref.resolved.registry for image_ref in self.image_refs if image_ref.resolved is not None)

    @property
    def empty(self) -> bool:
        """Whether every file could be read and none has an image reference."""
        return not self.image_refs and not self.problems

    @property
    def unused_rules(self) -> tuple[IgnoreRule, ...]:
        """The rules of `[[lock.ignore]]` that match no reference; none if only a part of the project was scanned."""
        if self.paths:
            return ()
        return tuple(
            rule
            for rule in self.settings.ignore
            if not any(rule.matches(each.image_ref) for each in self.ignored)
            and not any(rule.matches_problem(problem) for problem, _ in self.ignored_problems)
        )

    def outside(self, path: str) -> bool:
        """Return whether the scan was limited to other files than this one."""
        return bool(self.paths) and not any(path == each or path.startswith(f"{each}/") for each in self.paths)

    def unread(self) -> Callable[[str], bool]:
        """Return which files were not read: those outside, and if something was unreadable, those without a reference."""
        broken = {problem.path for problem in self.problems}
        read = {image_ref.path for image_ref in self.found.image_refs} - broken
        return lambda path: self.outside(path) or (bool(broken) and path not in read)


def open_project(root: Path, paths: Sequence[Path] = ()) -> OpenedProject:
    """Scan a project, or only these files and folders of it. Raises: Invalid, ProjectInvalid."""
    if not os.path.isdir(root):  # noqa: PTH112 - returns False where pathlib raises, as for a name that is too long
        raise Invalid(f"{quote(str(root))} is not a folder; expected the folder of a project in --project")
    settings = project_settings(root)
    inside = [_inside(root, path) for path in paths]
    limited = bool(inside) and all(inside)
    asked = ScanRequest(ProjectTree(root), [Path(each) for each in inside] if limited else [], settings.crds)
    with garbage_collection_paused():
        found = scan_project(asked.project, asked.paths, crds=asked.crds)
    image_refs: list[ImageReference] = []
    ignored: list[IgnoredReference] = []
    for image_ref in found.image_refs:
        if not settings.excludes(image_ref.path):
            reason = ignored_by(image_ref, settings.ignore)
            if reason is None:
                image_refs.append(image_ref)
            else:
                ignored.append(IgnoredReference(image_ref, reason))
    problems, notes, unknown = (
        [each for each in listed if not settings.excludes(each.path)]
        for listed in (found.problems, found.notes, found.unknown)
    )
    unread = (*problems, *notes, *unknown)
    left_out = {each: problem_ignored_by(each, settings.ignore) for each in unread}
    return OpenedProject(
        root=root,
        settings=settings,
        image_refs=tuple(image_refs),
        problems=tuple(each for each in problems if left_out[each] is None),
        notes=tuple(each for each in notes if left_out[each] is None),
        unknown=tuple(each for each in unknown if left_out[each] is None),
        paths=tuple(inside) if limited else (),
        asked=asked,
        found=found,
        ignored=tuple(ignored),
        ignored_problems=tuple((each, reason) for each in unread if (reason := left_out[each])),
    )


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause Python's cycle detector: a scan makes many values and no cycles, and would take a fifth longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _inside(root: Path, path: Path) -> str:
    """Return a path relative to the project, with `/`; "" for the project itself."""
    if not _exists(path):
        raise FileMissing(path)
    base = root.resolve()
    whole = path.resolve()
    if not whole.is_relative_to(base):
        raise Invalid(f"{quote(str(path))} is not in the project {quote(str(root))}; --project names another one")
    relative = whole.relative_to(base).as_posix()
    return "" if relative == "." else relative


def path_in_project(root: Path, text: str) -> Path:
    """Return a path as typed: relative to the working directory if it exists there, else to the project's root."""
    path = Path(text)
    return path if _exists(path) else root / text


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - returns False where pathlib raises, as for a name that is too long


def split_arguments(root: Path, arguments: Sequence[str]) -> tuple[list[Path], list[Reference]]:
    """Divide arguments into paths and image references; one that exists as a file is a path. Raises: Invalid."""
    paths, references = [], []
    for text in arguments:
        path = path_in_project(root, text)
        if _exists(path):
            paths.append(path)
            continue
        try:
            references.append(Reference.parse(text))
        except Invalid as error:
            raise Invalid(f"{quote(text)} is neither a file of the project nor a reference: {error.message}") from error
    return paths, references


def paths_in_project(root: Path, arguments: Sequence[str]) -> list[Path]:
    """Return each argument as a path, as `path_in_project` does."""
    return [path_in_project(root, text) for text in arguments]


def registry_filter(options: RegistryOptions, allow: Sequence[str]) -> Callable[[str], bool]:
    """Return which registries project files may make this client contact: by the user's settings, logins and `allow`.

    Raises: ProjectInvalid.
    """
    for name in allow:
        check_registry(name, "--allow")
    logins = options.client.credentials(anonymous=options.anonymous).named()
    return allowed_registries(options.client.settings, logins, allow)


def ledger_follower(
    options: RegistryOptions, transport: Transport, lock: Lock | None = None
) -> Callable[[str], Awaitable[LedgerCheck]]:
    """Return a function that checks a registry's ledger, also against the key that a lock names. Raises: LockInvalid."""
    keys: dict[str, VerifierKey] = {}
    for registry, key in {} if lock is None else lock.keys.items():
        try:
            keys[registry] = VerifierKey.parse(key)
        except KeyInvalid as error:
            raise LockInvalid(f"{LOCK_NAME}: the key of {registry} is not valid: {error.message}") from error
    return lambda registry: followed(options, transport, registry, keys.get(registry))
