"""What a Compose file wants on an engine: each image once, by the digest that stands in the file or the lock, if any does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from boltseal.host.pull import PullRequest
from boltseal.lockfile.document import Lock, key_in
from boltseal.project.image_references import ImageReference, ScanProblem


@dataclass(frozen=True, slots=True)
class UnresolvedImage:
    """An image of a file that can't be told."""

    written: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProjectImages:
    """What is to be brought; what can't be told; and the names of what is built here, which no registry is asked for."""

    wanted: tuple[PullRequest, ...]
    unclear: tuple[UnresolvedImage, ...]
    built: tuple[str, ...]


def project_images(
    sites: Iterable[ImageReference], problems: Iterable[ScanProblem], lock: Lock | None
) -> ProjectImages:
    """What the services of a Compose file run. What they are built from is the builder's to pull.

    A name with a tag and a digest gets its tag here too, though Compose would start it without: what it means next keeps
    what it means now.
    """
    wanted: dict[PullRequest, None] = {}
    unclear = [UnresolvedImage("", each.path, each.message) for each in problems]
    built: dict[str, None] = {}
    known = {} if lock is None else lock.by_reference()
    for site in sites:
        if ".build." in site.where:
            continue
        if site.build:
            built[site.written] = None
        elif site.resolved is None:
            unclear.append(UnresolvedImage(site.written, f"{site.path}:{site.line}", site.why or "it can't be told"))
        else:
            locked = known.get(key_in(site.resolved, known))
            found = PullRequest.of(site.resolved)
            if found.digest is None and locked is not None and locked.digest is not None:
                found = replace(found, digest=locked.digest, locked=True, images=locked.image_ids)
            elif found.digest is None and locked is not None:
                built[site.written] = None  # the lock says that no registry holds it
                continue
            for platform in site.platforms or ("",):
                wanted[replace(found, platform=platform)] = None
    return ProjectImages(tuple(wanted), tuple(unclear), tuple(built))
