"""Explain outdated images: what changed in the ancestor that moved, and whether the change reaches the image.

1. Which base moved: the image's own, or the first one above it that did, with its image then and now.
2. Both images of the base are read once for each platform, by digest: manifests, SBOMs and all layers (`image_contents`).
   Only what differs is kept (`base_change`), for one base at a time.
3. Each image is read in the same way, and the changed parts are looked up in it.

Where a mirror is configured, it is asked first. What can't be read is a result with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from boltseal.client.transport import Transport
from boltseal.commands.base_change import BaseChange, BaseMove, ExplainedBase, ImageLayers
from boltseal.commands.client_context import ClientContext
from boltseal.commands.image_contents import read_contents
from boltseal.commands.image_locations import opened_sources
from boltseal.commands.progress import Progress
from boltseal.errors import BoltsealError, NotFound
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.policy.base_change_reach import Reach
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.changes import changes
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.index_children import platform_of
from boltseal.transfer.inspect import inspect
from boltseal.transfer.locations import Location


class ExplainedImage(NamedTuple):
    """One platform of an image that was scanned."""

    reference: Reference
    platform: str


class _Part(NamedTuple):
    """One platform of an outdated image: its digest, and the base that moved, or why that is not known."""

    image: ExplainedImage
    digest: Digest
    move: BaseMove | str


class BaseExplainer:
    """Reads images. `documents`: manifests and configs, which the scan has read already."""

    def __init__(self, client: ClientContext, transport: Transport, documents: ImageDocuments) -> None:
        self._client = client
        self._transport = transport
        self._documents = documents

    async def explain(self, reports: Sequence[BaseReport], progress: Progress) -> dict[ExplainedImage, ExplainedBase]:
        """Explain each outdated platform of each image. Raises: LedgerBroken."""
        parts = sorted(_outdated_parts(reports), key=lambda part: (str(part.move), str(part.digest)))
        found: dict[ExplainedImage, ExplainedBase] = {}
        change: BaseChange | ExplainedBase | None = None
        last: tuple[_Part, ExplainedBase] | None = None
        for done, part in enumerate(parts):
            progress("images explained", done, len(parts))
            if isinstance(part.move, str):
                found[part.image] = _could_not_check(part.move)
                continue
            if change is None or change.move != part.move:
                change = await self._change(part.move)
            if isinstance(change, ExplainedBase):
                found[part.image] = change
                continue
            same = last is not None and (last[0].move, last[0].digest) == (part.move, part.digest)
            explained = last[1] if last is not None and same else await self._explain(part, change)
            last = part, explained
            found[part.image] = explained
        return found

    async def _change(self, move: BaseMove) -> BaseChange | ExplainedBase:
        """Return what changed in a base, or that it could not be read."""
        remote = RemoteRepository(move.base.registry, move.base.repository)
        read: list[tuple[ImageFacts, ImageLayers]] = []
        for which, digest in (("former", move.was), ("new", move.now)):
            try:
                read.append(await self._read(remote, digest, move.platform))
            except LedgerBroken:
                raise
            except BoltsealError as error:
                return _could_not_check(f"the {which} image of {move.base} can't be read: {error.message}", move)
        (old, was), (new, now) = read
        return BaseChange(move, was, now, changes(old, new).settings)

    async def _explain(self, part: _Part, change: BaseChange) -> ExplainedBase:
        reference = part.image.reference
        remote = RemoteRepository(reference.registry, reference.repository)
        move = change.move
        try:
            facts, layers = await self._read(remote, part.digest, part.image.platform, change.diff_ids)
            base = RemoteRepository(move.base.registry, move.base.repository)
            now = await self._documents.facts_for(base, move.now, platform_of(move.platform))
        except LedgerBroken:
            raise
        except BoltsealError as error:
            return _could_not_check(f"the image can't be read: {error.message}", move)
        return change.explain(layers, () if now is None else changes(facts, now).settings)

    async def _read(
        self, remote: RemoteRepository, digest: Digest, platform: str, base_layers: Sequence[str] = ()
    ) -> tuple[ImageFacts, ImageLayers]:
        """Read the image of one platform, from a mirror if one has it. `base_layers`: diff_ids. Raises: errors of the registry."""
        facts = await self._documents.facts_for(remote, digest, platform_of(platform))
        if facts is None:
            raise NotFound(f"it has no image for {platform}")
        manifest = await self._documents.manifest(remote, digest)
        chosen = next(
            (str(each.platform or Platform()) for each in manifest.manifests if each.digest == facts.manifest), ""
        )
        *mirrors, registry = self._documents.sources(remote)
        for place in mirrors:
            try:
                layers = await self._layers(place, digest, chosen, base_layers)
            except LedgerBroken:
                raise
            except BoltsealError:
                continue
            if layers.contents.files is not None:
                return facts, layers
        return facts, await self._layers(registry, digest, chosen, base_layers)

    async def _layers(
        self, place: RemoteRepository, digest: Digest, chosen: str, base_layers: Sequence[str]
    ) -> ImageLayers:
        location = Location.parse(f"{place.registry}/{place.repository}@{digest}")
        async with opened_sources(self._client, self._transport, location) as (source,):
            inspected = await inspect(source, digest, chosen or None)
            contents = await read_contents(source, inspected, base_layers=base_layers)
        return ImageLayers(contents, () if inspected.config is None else inspected.config.diff_ids)


def moved_base(verdict: BaseVerdict) -> BaseMove | str:
    """Return the closest base of an outdated image that moved or has a newer revision, or why it is not known what it was."""
    moved = verdict
    if verdict.rebuild_first:
        moved = next((each for each in verdict.ancestors if each.status is BaseStatus.OUTDATED), verdict)
    base = None if moved.claim is None else moved.claim.base
    if moved.newer is not None and moved.newer.digest is not None and moved.now is not None:
        return BaseMove(moved.newer.by_tag, moved.now, moved.newer.digest, verdict.platform)
    if base is None or moved.now is None or moved.built_on is None:
        return f"which image of {base or 'its base'} it was built on is not known"
    return BaseMove(base, moved.built_on, moved.now, verdict.platform)


def _outdated_parts(reports: Sequence[BaseReport]) -> list[_Part]:
    return [
        _Part(ExplainedImage(report.wanted.reference, verdict.platform), report.digest, moved_base(verdict))
        for report in reports
        if report.digest is not None
        for verdict in report.verdicts
        if verdict.status is BaseStatus.OUTDATED
    ]


def _could_not_check(reason: str, move: BaseMove | None = None) -> ExplainedBase:
    return ExplainedBase(Reach.UNKNOWN, reason, move)
