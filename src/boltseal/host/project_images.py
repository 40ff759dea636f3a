"""Lists the images of a Compose file to pull: each once, by its digest in the file or the lock, if it has one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from boltseal.host.pull import PullRequest
from boltseal.lockfile.document import Lock, key_in
from boltseal.project.image_references import ImageReference, ScanProblem


@dataclass(frozen=True, slots=True)
class UnresolvedImage:
    """An image reference of a file that can't be resolved. `written`: its text; `where`: file and line."""

    written: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProjectImages:
    """The images of a Compose file. `wanted`: to pull; `unclear`: not resolvable; `built`: local builds and image IDs."""

    wanted: tuple[PullRequest, ...]
    unclear: tuple[UnresolvedImage, ...]
    built: tuple[str, ...]


def project_images(
    references: Iterable[ImageReference], problems: Iterable[ScanProblem], lock: Lock | None
) -> ProjectImages:
    """Return the images that the services of a Compose file run, without the base images of builds.

    A name with tag and digest is tagged on the host too, though Compose could start it without the tag: then a later pull
    of that tag keeps this image.
    """
    wanted: dict[PullRequest, None] = {}
    unclear = [UnresolvedImage("", each.path, each.message) for each in problems]
    built: dict[str, None] = {}
    known = {} if lock is None else lock.by_reference()
    for reference in references:
        if ".build." in reference.where:
            continue
        if reference.build or reference.image_id:
            built[reference.written] = None
        elif reference.resolved is None:
            unclear.append(
                UnresolvedImage(
                    reference.written, f"{reference.path}:{reference.line}", reference.why or "it can't be resolved"
                )
            )
        else:
            locked = known.get(key_in(reference.resolved, known))
            found = PullRequest.of(reference.resolved)
            if found.digest is None and locked is not None and locked.digest is not None:
                found = replace(found, digest=locked.digest, locked=True, images=locked.image_ids)
            elif found.digest is None and locked is not None:
                built[reference.written] = None  # the lock has it as a local build
                continue
            for platform in reference.platforms or ("",):
                wanted[replace(found, platform=platform)] = None
    return ProjectImages(tuple(wanted), tuple(unclear), tuple(built))
