"""Former images of the tags in a scan: a base that has moved is still the base of the images built on it.

The former image of a moved tag is not among the images of the scan. An image also begins with the layers of its base's
own base, which would then be mistaken for its base. So former images are candidates too:

1. Which ones: from the ledger of the tag's registry, even of deleted tags; from a mirror's log of observations; from
   `boltseal watch` and earlier scans. A tag that never moved causes no further requests.
2. Registries with a ledger keep the layer chains of former images, also of deleted ones (`kept_chains`). Those with which
   no image of the scan begins are done with.
3. The documents of the others are read by digest, once, from registries with a ledger, because these keep overwritten
   images. Other registries, and mirrored repositories, are not contacted: only what was cached before counts.
4. A former image of which nothing can be read may be the base of images of other repositories (`unknown_periods`). The verdict
   gives the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, NotFound, TooLarge
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.lockfile.container_check import KEEP_PREFIX
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.rule_decision import signature_subject
from boltseal.project.bases.freshness import TagInterval
from boltseal.project.bases.image_documents import AT_ONCE, ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import ImageFacts, NotAnImage
from boltseal.project.bases.kept_chains import KeptChains
from boltseal.project.bases.layer_chains import ChainMatcher
from boltseal.project.bases.layer_match import Candidate
from boltseal.project.bases.unknown_periods import UnknownPeriod, UnknownPeriods, Window

MAX_FORMER: Final = 5_000
"""Maximum number of former images per scan."""
MOVED_OR_GONE: Final = frozenset({EntryKind.TAG_MOVED, EntryKind.TAG_RESTORED}) | REMOVALS
"""Kinds of entries after which a tag resolves to another image; a tag that never moved has none of them."""
SERVED_KINDS: Final = frozenset({EntryKind.OBSERVED, EntryKind.ACCEPTED})
"""Kinds of observations that record what an upstream's tag was served as."""


@dataclass(frozen=True, slots=True)
class FormerImages:
    """Former images of tags, each for one platform, and when a tag may have resolved to an unknown one.

    `gone`: tags that were deleted since. `read`: tags with a former image that was read, whether it is a candidate or not.
    `present`: what moved tags resolve to by their ledger, of those that were not resolved; `candidates` has these images too.
    """

    candidates: tuple[Candidate, ...] = ()
    unknown: UnknownPeriods = field(default_factory=UnknownPeriods)
    gone: frozenset[Reference] = frozenset()
    read: frozenset[Reference] = frozenset()
    present: Mapping[Reference, Digest] = field(default_factory=dict)


def former_digests(
    remote: RemoteRepository, entries: Iterable[Entry], kinds: frozenset[EntryKind] = MOVED_OR_GONE
) -> dict[Reference, list[TagInterval]]:
    """Return what each tag resolved to before and after the entries of these kinds, each digest once, the oldest first.

    The interval of a digest that the tag returned to covers the times between. An interval without a digest at the end
    means that the tag was deleted. Tags of signature tools and of kept images are skipped: no build names one.
    """
    found: dict[Reference, dict[str, TagInterval]] = {}
    for entry in entries:
        if entry.kind not in kinds or not entry.tag or not _may_be_base(entry.tag):
            continue
        intervals = found.setdefault(Reference(remote.registry, remote.repository, Tag(entry.tag)), {})
        intervals.pop("", None)
        if entry.was:
            before = intervals.get(entry.was) or TagInterval(Digest.parse(entry.was), None, None)
            intervals[entry.was] = before._replace(last_us=entry.time_us)
        if entry.kind in REMOVALS:
            intervals[""] = TagInterval(None, entry.time_us, None)
        elif entry.digest:
            now = intervals.get(entry.digest) or TagInterval(Digest.parse(entry.digest), entry.time_us, None)
            intervals[entry.digest] = now._replace(last_us=None)
    return {base: list(intervals.values()) for base, intervals in found.items()}


def _may_be_base(tag: str) -> bool:
    return signature_subject(tag) is None and not tag.startswith(KEEP_PREFIX)


class FormerImageReader(NamedTuple):
    """Where former images are read. `may_ask`: whether a tag's registry keeps overwritten images itself."""

    documents: ImageDocuments
    chains: KeptChains
    may_ask: Callable[[Reference], bool]


async def read_former_images(
    reader: FormerImageReader,
    former: Mapping[Reference, Sequence[TagInterval]],
    images: Sequence[ImageFacts],
    unknown: Iterable[UnknownPeriod],
    *,
    max_units: int,
) -> FormerImages:
    """Read former images. `former`: of each tag, the oldest first. `unknown`: periods that are already known.

    `images`: those whose base is searched for. `max_units`: maximum number of layers and history lines in memory.
    """
    wanted, matcher = tuple(dict.fromkeys(image.platform for image in images)), ChainMatcher(images if former else ())
    cached = reader.documents.cached_only()
    listed = [
        (base, interval.digest, Window(interval.first_us, interval.last_us))
        for base, several in former.items()
        for interval in reversed(several)
        if interval.digest is not None
    ]

    gate, units = asyncio.Semaphore(AT_ONCE), 0

    async def read(base: Reference, digest: Digest, when: Window) -> list[Candidate] | UnknownPeriod:
        nonlocal units
        source = reader.documents if reader.may_ask(base) else cached
        remote = RemoteRepository(base.registry, base.repository)
        found: dict[Digest, Candidate] = {}
        try:
            async with gate:
                for platform in wanted:
                    if units > max_units:
                        raise TooLarge("too many former images at a time")
                    facts = await _facts(source, reader.chains, matcher, remote, digest, platform)
                    if facts is not None and facts.manifest not in found:
                        found[facts.manifest] = Candidate(base, digest, facts)
                        units += len(facts.diff_ids) + len(facts.history)
        except NotAnImage:  # nothing is built on a signature, SBOM or chart
            return []
        except BoltsealError as error:
            why = f"{base} formerly resolved to {digest}, whose layers are unknown: {error.message}"
            return UnknownPeriod(base.name, why, when)
        return list(found.values())

    failures = list(unknown)
    await _read_chains(reader, listed[:MAX_FORMER])
    candidates, known = list[Candidate](), set[Reference]()
    results = await asyncio.gather(*(read(base, digest, when) for base, digest, when in listed[:MAX_FORMER]))
    for (base, *_), result in zip(listed, results, strict=False):
        if isinstance(result, UnknownPeriod):
            failures.append(result)
        else:
            candidates += result
            known.add(base)
    failures += [
        UnknownPeriod(name, f"tags moved more than {MAX_FORMER} times, which is the limit")
        for name in dict.fromkeys(base.name for base, *_ in listed[MAX_FORMER:])
    ]
    gone = frozenset(base for base, several in former.items() if several and several[-1].digest is None)
    return FormerImages(tuple(candidates), UnknownPeriods(failures), gone, frozenset(known))


async def _read_chains(reader: FormerImageReader, listed: Iterable[tuple[Reference, Digest, Window]]) -> None:
    """Read the layer chains of former images whose documents are not cached; of those without one, the documents remain."""
    by_repository: dict[RemoteRepository, list[Digest]] = {}
    for base, digest, _ in listed:
        if not reader.documents.is_cached(digest):
            by_repository.setdefault(RemoteRepository(base.registry, base.repository), []).append(digest)
    for remote, digests in by_repository.items():
        with suppress(BoltsealError):
            await reader.chains.read(remote, digests)


async def _facts(
    documents: ImageDocuments,
    chains: KeptChains,
    matcher: ChainMatcher,
    remote: RemoteRepository,
    digest: Digest,
    platform: Platform,
) -> ImageFacts | None:
    """Return a former image's facts for a platform; None if it has none for it, or if no image begins with its layers."""
    try:
        known = chains.known(remote, digest, platform)
    except NotFound:
        return await documents.facts_for(remote, digest, platform)
    if known is None or not matcher.begins(known.chain):
        return None
    try:
        return await documents.facts_for(remote, digest, platform)
    except BoltsealError:  # it was deleted, or its upstream is not asked for it
        return matcher.facts(known)
