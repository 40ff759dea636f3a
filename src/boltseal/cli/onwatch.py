"""Which tags `boltseal watch` is to look at: those that were typed, those of a lock, and those of a Compose file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.commands.registry_access import ReferenceUnsuitable
from boltseal.commands.text import clean
from boltseal.errors import Invalid
from boltseal.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from boltseal.oci.reference import Reference


@dataclass(slots=True)
class TagsToWatch:
    """Tags to look at, each once; and what can't be looked at, with the reason."""

    references: dict[Reference, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def registries(self) -> frozenset[str]:
        """Whom they are asked of."""
        return frozenset(each.registry for each in self.references)


def wanted_tags(
    refs: Iterable[str], lock: Path | None, compose: Path | None, allowed: Callable[[str], bool]
) -> TagsToWatch:
    """All of them. `allowed`: which registries a file may make us talk to. ReferenceUnsuitable, LockInvalid, NameInvalid, ..."""
    wanted = TagsToWatch()
    for text in refs:
        reference = Reference.parse(text)
        if reference.digest is not None and reference.tag is None:
            raise ReferenceUnsuitable(
                f"{reference} names one image for ever; expected a tag, such as {reference.name}:1.4.2"
            )
        wanted.references[reference.by_tag] = None
    found = [*(_locked(lock) if lock else ()), *(_composed(compose, wanted) if compose else ())]
    for reference in found:
        if not allowed(reference.registry):
            wanted.left_out[str(reference)] = (
                f"a file names it, and may not make us talk to {reference.registry}: --allow {reference.registry} says that it may"
            )
        elif reference.tag is not None or reference.digest is None:
            wanted.references[reference.by_tag] = None
    if not wanted.references and lock is None and compose is None:
        raise ReferenceUnsuitable(
            "there is no tag to look at; name one, such as node:16.13, or --lock FILE or --compose FILE"
        )
    return wanted


def _locked(path: Path) -> list[Reference]:
    from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise Invalid(
            f"{path} can't be read: {error.strerror}; expected a lock, as `boltseal lock` writes it"
        ) from error
    return [image.reference for image in parse_lock(raw).images if not image.local_build]


def _composed(path: Path, wanted: TagsToWatch) -> list[Reference]:
    from boltseal.cli.onproject import open_project

    opened = open_project(path.parent, [path])
    for problem in opened.problems:
        wanted.left_out[str(path)] = clean(str(problem))
    for site in opened.sites:
        if site.resolved is None:
            wanted.left_out[site.written] = f"{site.path}:{site.line}: {site.why}"
    return [site.resolved for site in opened.sites if site.resolved is not None and not site.build]
