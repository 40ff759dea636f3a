"""The tag that a rebuild should push: the image's own if that may move, else its next revision (`policy.tag_revisions`).

1. Is the tag sealed? The registry's ledger says so, when it has signed the push of the tag; at a registry without a ledger, a tag that
   looks like a release counts.
2. The tags of the repository give the number of the revision. A deleted sealed tag is not listed and can't be reused: the
   registry is asked for the proposed one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.client.ledger_records import SIGNED_PAUSE_S, ListedRecord, list_entries
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.errors import Unavailable
from boltseal.ledger.entry import CHANGES
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.policy.rebuild_actions import RebuildAction
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.tag_revisions import DOT, next_revision
from boltseal.project.bases.newer_revisions import LASTING, SIGNED_TIMEOUT_S

MAX_TRIES: Final = 100
"""How many deleted revisions in a row are skipped."""


class RebuildTags:
    """Names rebuilds. The registry's current tags are read each time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def new_image(self, image: Reference, action: RebuildAction) -> Reference:
        """Return the reference that a rebuild of an image should push. Raises: Unavailable, and as `revision`."""
        if image.tag is None or not await self._is_sealed(image.registry, image.repository, image.tag):
            return image
        tag = await self.revision(image.registry, image.repository, image.tag, action.revision)
        return Reference(image.registry, image.repository, tag)

    async def revision(self, registry: str, repository: Repository, tag: Tag, separator: str = DOT) -> Tag:
        """Return the next free revision of a tag. Raises: RevisionInvalid, Unavailable, RemoteUnavailable and others."""
        client = RegistryClient(self._transport, registry)
        taken = {found async for found in client.tags(repository)}
        for _ in range(MAX_TRIES):
            revision = next_revision(tag, taken, separator)
            try:
                await client.resolve(repository, revision)
            except RemoteNotFound as missing:
                if missing.bound is None:
                    return revision
            taken.add(revision)
        raise Unavailable(f"{registry}/{repository}: {MAX_TRIES} revisions of {tag} are deleted; name the tag yourself")

    async def _is_sealed(self, registry: str, repository: Repository, tag: Tag) -> bool:
        """Return whether a tag may never resolve to another image."""
        entries: list[ListedRecord] = []
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGNED_TIMEOUT_S):
                    while True:
                        if entries := await list_entries(self._transport, registry, repository, CHANGES, tag):
                            break
                        await asyncio.sleep(SIGNED_PAUSE_S)
        except RemoteNotFound:
            return looks_like_release(tag)
        return entries[-1].entry.extra.get("mode") in LASTING if entries else looks_like_release(tag)
