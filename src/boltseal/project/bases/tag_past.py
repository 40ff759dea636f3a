"""What the tags of a scan resolved to before, and when that is not known: reads ledgers, mirrors' logs and observations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from boltseal.client.bounded_requests import ask_each
from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_records import ListedRecord, list_entries, list_observations
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, NotFound
from boltseal.ledger.entry import RECORDS
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.former_images import (
    MOVED_OR_GONE,
    SERVED_KINDS,
    FormerImageReader,
    FormerImages,
    former_digests,
    read_former_images,
)
from boltseal.project.bases.freshness import TagInterval
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.kept_chains import KeptChains
from boltseal.project.bases.tag_history import TagHistories
from boltseal.project.bases.unknown_periods import UnknownPeriod, Window, gaps, possible


class _Moves(NamedTuple):
    """The entries of a repository's ledger about its images, and what its tags were served as by a mirror."""

    entries: list[ListedRecord]
    served: dict[Reference, list[TagInterval]]


class ScannedTag(NamedTuple):
    """An image of a scan. `digest`: what it resolves to, None if that could not be found out."""

    reference: Reference
    digest: Digest | None


class TagPast:
    """Reads the past of tags. `has_ledger`: whether a registry is known to keep a ledger."""

    def __init__(
        self,
        transport: Transport,
        documents: ImageDocuments,
        cache: DocumentCache,
        histories: TagHistories,
        has_ledger: Callable[[str], bool],
        chains: KeptChains,
    ) -> None:
        self._transport = transport
        self._documents = documents
        self._cache = cache
        self._histories = histories
        self._has_ledger = has_ledger
        self._chains = chains
        self._records: dict[RemoteRepository, asyncio.Task[list[ListedRecord]]] = {}
        self._unlisted: dict[RemoteRepository, str] = {}

    def forget(self) -> None:
        """Discard the results, because tags may have moved meanwhile."""
        self._records.clear()
        self._unlisted.clear()
        self._histories.forget()

    async def entries(self, remote: RemoteRepository) -> list[ListedRecord]:
        """Return a repository's entries, unproven, if its registry keeps a ledger; [] if they can't be read."""
        if not self._has_ledger(remote.registry):
            return []
        if remote not in self._records:
            self._records[remote] = asyncio.create_task(self._read_entries(remote))
        return await asyncio.shield(self._records[remote])

    async def _read_entries(self, remote: RemoteRepository) -> list[ListedRecord]:
        """Read the entries about builds, and those after which a tag resolved to another image."""
        try:
            return await list_entries(self._transport, remote.registry, remote.repository, RECORDS | MOVED_OR_GONE)
        except NotFound:
            return []
        except BoltsealError as error:  # other sources remain
            self._unlisted[remote] = (
                f"the history of {remote.registry}/{remote.repository} can't be read: {error.message}"
            )
            return []

    async def former_images(
        self, tags: Sequence[ScannedTag], images: Sequence[ImageFacts], *, max_units: int
    ) -> FormerImages:
        """Return the former images of tags that may be the bases of these images.

        `max_units`: limit of their layers and history lines.
        """
        mirrored: set[str] = set()
        intervals: dict[Reference, dict[Digest | None, TagInterval]] = {}
        unknown: list[UnknownPeriod] = []
        present: dict[Reference, Digest] = {}

        def note(found: Mapping[Reference, Iterable[TagInterval]]) -> None:
            for base, before in found.items():
                intervals.setdefault(base, {}).update((interval.digest, interval) for interval in before)

        remotes = dict.fromkeys(RemoteRepository(tag.reference.registry, tag.reference.repository) for tag in tags)
        for remote, (entries, served) in (await ask_each(remotes, self._moves)).items():
            recorded = former_digests(remote, [each.entry for each in entries])
            note(recorded)
            present |= {
                base: each.digest
                for base, past in recorded.items()
                for each in past
                if each.digest is not None and each.last_us is None
            }
            note(served)
            mirrored |= {base.name for base in served}
        listings = {
            registry: self._cache.listings(registry)
            for registry in {tag.reference.registry for tag in tags}
            if not self._has_ledger(registry)
        }
        for tag in tags:
            if tag.reference.tag is not None:
                note({tag.reference.by_tag: self._observed(tag, listings, unknown)})
                await asyncio.sleep(0)  # let a server process other requests
        for tag in tags:
            if tag.reference.tag is not None and tag.digest is not None and tag.reference.digest is None:
                present.pop(tag.reference, None)
                intervals[tag.reference].pop(tag.digest, None)  # it is part of this scan
        order = {remote: number for number, remote in enumerate(remotes)}
        unlisted = sorted(self._unlisted, key=lambda remote: order.get(remote, len(order)))
        unknown += [UnknownPeriod(f"{at.registry}/{at.repository}", self._unlisted[at]) for at in unlisted]
        found = await read_former_images(
            # what a mirror does not have any more it would fetch from its upstream
            FormerImageReader(
                self._documents,
                self._chains,
                lambda base: self._has_ledger(base.registry) and base.name not in mirrored,
            ),
            {base: tuple(several.values()) for base, several in intervals.items()},
            images,
            unknown,
            max_units=max_units,
        )
        return replace(found, present=present)

    async def _moves(self, remote: RemoteRepository) -> _Moves:
        return _Moves(await self.entries(remote), await self._mirrored(remote))

    def _observed(
        self,
        tag: ScannedTag,
        listings: Mapping[str, Sequence[int]],
        unknown: list[UnknownPeriod],
    ) -> tuple[TagInterval, ...]:
        """Return what this machine observed a tag as before; add to `unknown` when it may have been something else."""
        reference = tag.reference
        observed = self._histories.observed(reference)
        answered = reference.digest is None and tag.digest is not None
        if reference.registry in listings:
            missing = [*gaps(observed, listings[reference.registry])]
            if not answered and observed:
                missing.append(Window(observed[-1].last_us, None))
            why = f"{reference.by_tag} was not observed all the time, and {reference.registry} keeps no history"
            unknown += [UnknownPeriod(reference.name, why, when, observed=False) for when in missing]
            observed = possible(observed, listings[reference.registry])
        # without an answer from the registry, the last observation may still be current
        return observed if answered else observed[:-1]

    async def _mirrored(self, remote: RemoteRepository) -> dict[Reference, list[TagInterval]]:
        """Return what the tags of a mirrored repository were served as, from its registry's log of observations."""
        if not self._has_ledger(remote.registry) or "." not in remote.repository.partition("/")[0]:
            return {}
        try:
            listed = await list_observations(self._transport, remote.registry, remote.repository, SERVED_KINDS)
            return former_digests(remote, [each.entry for each in listed], SERVED_KINDS)
        except BoltsealError as error:
            self._unlisted[remote] = (
                f"the observations of {remote.repository} at {remote.registry} can't be read: {error.message}"
            )
            return {}
