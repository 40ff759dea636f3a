"""What a Compose file wants on an engine: each image once, by the digest that stands in the file or the lock, if any does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from boltseal.host.pull import PullRequest
from boltseal.lockfile.document import Lock, key_in
from boltseal.project.image_references import ImageReference, ScanProblem


@dataclass(frozen=True, slots=True)
class Unclear:
    """An image of a file that can't be told."""

    written: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProjectImages:
    """What is to be brought; what can't be told; and the names of what is built here, which no registry is asked for."""

    wanted: tuple[PullRequest, ...]
    unclear: tuple[Unclear, ...]
    built: tuple[str, ...]


def images_of(
    image_refs: Iterable[ImageReference], problems: Iterable[ScanProblem], lock: Lock | None
) -> ProjectImages:
    """What the services of a Compose file run. What they are built from is the builder's to pull.

    A name with a tag and a digest gets its tag here too, though Compose would start it without: what it means next keeps
    what it means now.
    """
    wanted: dict[PullRequest, None] = {}
    unclear = [Unclear("", each.path, each.message) for each in problems]
    built: dict[str, None] = {}
    known = {} if lock is None else lock.by_reference()
    for image_ref in image_refs:
        if ".build." in image_ref.where:
            continue
        if image_ref.build:
            built[image_ref.written] = None
        elif image_ref.resolved is None:
            unclear.append(
                Unclear(image_ref.written, f"{image_ref.path}:{image_ref.line}", image_ref.why or "it can't be told")
            )
        else:
            locked = known.get(key_in(image_ref.resolved, known))
            found = PullRequest.of(image_ref.resolved)
            if found.digest is None and locked is not None and locked.digest is not None:
                found = replace(found, digest=locked.digest, locked=True, images=locked.image_ids)
            elif found.digest is None and locked is not None:
                built[image_ref.written] = None  # the lock says that no registry holds it
                continue
            for platform in image_ref.platforms or ("",):
                wanted[replace(found, platform=platform)] = None
    return ProjectImages(tuple(wanted), tuple(unclear), tuple(built))
