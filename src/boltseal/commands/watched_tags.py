"""Which tags `boltseal watch` looks at: named ones, those of a lock, and those of a Compose file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from boltseal.commands.project_images import open_project
from boltseal.commands.registry_access import ReferenceUnsuitable
from boltseal.errors import Invalid
from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock
from boltseal.oci.reference import Reference


@dataclass(slots=True)
class WatchedTags:
    """Tags to look at, each once; and references that are left out, with the reason."""

    references: dict[Reference, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def registries(self) -> frozenset[str]:
        """The registries of the tags."""
        return frozenset(each.registry for each in self.references)


def watched_tags(
    refs: Iterable[str], lock: Path | None, compose: Path | None, allowed: Callable[[str], bool]
) -> WatchedTags:
    """Return the tags to look at. `allowed`: which registries a file may make this client contact.

    Raises: ReferenceUnsuitable, LockInvalid, NameInvalid, Invalid.
    """
    wanted = WatchedTags()
    for text in refs:
        reference = Reference.parse(text)
        if reference.digest is not None and reference.tag is None:
            raise ReferenceUnsuitable(
                f"{reference} can never resolve to another image; expected a tag, such as {reference.name}:1.4.2"
            )
        wanted.references[reference.by_tag] = None
    found = [*(_locked(lock) if lock else ()), *(_composed(compose, wanted) if compose else ())]
    for reference in found:
        if not allowed(reference.registry):
            wanted.left_out[str(reference)] = (
                f"{reference.registry} is not contacted: only a file names it; to allow it: --allow {reference.registry}"
            )
        elif reference.tag is not None or reference.digest is None:
            wanted.references[reference.by_tag] = None
    if not wanted.references and lock is None and compose is None:
        raise ReferenceUnsuitable("no tag to look at; name one, such as node:16.13, or --lock FILE or --compose FILE")
    return wanted


def _locked(path: Path) -> list[Reference]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise Invalid(
            f"{path} can't be read: {error.strerror}; expected a lock, as `boltseal lock` writes it"
        ) from error
    return [image.reference for image in parse_lock(raw).images if not image.local_build]


def _composed(path: Path, wanted: WatchedTags) -> list[Reference]:
    opened = open_project(path.parent, [path])
    for problem in opened.problems:
        wanted.left_out[str(path)] = str(problem)
    for image_ref in opened.image_refs:
        if image_ref.resolved is None:
            wanted.left_out[image_ref.written] = f"{image_ref.path}:{image_ref.line}: {image_ref.why}"
    return [
        image_ref.resolved for image_ref in opened.image_refs if image_ref.resolved is not None and not image_ref.build
    ]
