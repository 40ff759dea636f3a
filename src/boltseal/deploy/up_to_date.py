"""Checks whether a project already runs exactly as its files and lock say, by asking only the engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from boltseal.deploy.compose_model import locked_digests, merge_services
from boltseal.deploy.compose_reading import ComposeReading
from boltseal.deploy.release_flow import ReleaseFlow
from boltseal.deploy.releases import Release, last_good, unreplaced_releases
from boltseal.engines.api import NoSuchImage
from boltseal.lockfile.document import Lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


async def current_release(
    flow: ReleaseFlow, read: ComposeReading, lock: Lock | None, chosen: Sequence[str], changed: Collection[Digest]
) -> Release | None:
    """Return the running release if a new one would equal it in services, images, text and containers; None otherwise.

    It is None too where a later release may have left containers, and where an image that runs was changed on the disk.
    `changed`: the IDs of such images.

    Raises: LockMismatch.
    """
    releases = flow.folder.all()
    last = last_good(releases)
    digests = locked_digests(read.model, lock)
    names = sorted(read.model.services)
    if last is None or unreplaced_releases(releases):
        return None
    if not chosen and {each.name for each in last.services} != set(names):
        return None
    images: dict[str, str] = {}
    for name in names:
        service, digest = last.service(name), digests.get(name)
        if service is None or service.digest != ("" if digest is None else str(digest)):
            return None
        if digest is None and await _built_image_id(flow, read.model.services[name].image) != service.image_id:
            return None
        if Digest.parse(service.image_id) in changed:
            return None
        images[name] = service.started_as
    document = merge_services(read.model, flow.folder.contents(last.number).compose, chosen)
    text = flow.text(document, images)
    return last if await flow.unchanged(last, text, names, read.variables) else None


async def _built_image_id(flow: ReleaseFlow, image: Reference) -> str | None:
    """Return the ID that the tag of a locally built image resolves to, None if there is none."""
    try:
        return str((await flow.engine.image(image.by_tag)).id)
    except NoSuchImage:
        return None
