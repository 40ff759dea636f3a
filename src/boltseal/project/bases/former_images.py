"""Former images of the tags in a scan: a base that has moved is still the base of the images built on it.

The former image of a moved tag is not among the images of the scan. An image also begins with the layers of its base's
own base, which would then be mistaken for its base. So former images are candidates too:

1. Which ones: from the ledger of the tag's registry, even of deleted tags; from a mirror's log of observations; from
   `boltseal watch` and earlier scans. A tag that never moved causes no further requests.
2. Their layers are read by digest, once, from registries with a ledger, because these keep overwritten images. Other
   registries are not contacted: only what was cached before counts.
3. A former image that can't be read may be the base of any image of another repository. The verdict gives the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, TooLarge
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.rule_decision import signature_subject
from boltseal.project.bases.image_documents import AT_ONCE, ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import NotAnImage
from boltseal.project.bases.layer_match import Candidate

MAX_FORMER: Final = 5_000
"""Maximum number of former images per scan."""
MOVED_OR_GONE: Final = frozenset({EntryKind.TAG_MOVED, EntryKind.TAG_RESTORED}) | REMOVALS
"""Kinds of entries after which a tag resolves to another image; a tag that never moved has none of them."""
SERVED_KINDS: Final = frozenset({EntryKind.OBSERVED, EntryKind.ACCEPTED})
"""Kinds of observations that record what an upstream's tag was served as."""


class UnreadImage(NamedTuple):
    """An image or a repository's history that can't be read. `name`: registry and repository."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FormerImages:
    """Former images, each for one platform, and those that can't be read."""

    candidates: tuple[Candidate, ...] = ()
    unread: tuple[UnreadImage, ...] = ()

    def doubt(self, own: Reference) -> str:
        """Return why layers don't prove an image's base: a possible base is unknown. "" for no doubt.

        Images of the same repository are not considered bases of each other.
        """
        return next((failure.reason for failure in self.unread if failure.name != own.name), "")


def former_digests(
    remote: RemoteRepository, entries: Iterable[Entry], kinds: frozenset[EntryKind] = MOVED_OR_GONE
) -> dict[Reference, list[Digest]]:
    """Return each tag's digests before and after the entries of these kinds, the oldest first.

    Tags of signature tools are skipped: nothing is built on a signature.
    """
    found: dict[Reference, dict[str, None]] = {}
    for entry in entries:
        if entry.kind in kinds and entry.tag and signature_subject(entry.tag) is None:
            base = Reference(remote.registry, remote.repository, Tag(entry.tag))
            found.setdefault(base, {}).update(dict.fromkeys(digest for digest in (entry.was, entry.digest) if digest))
    return {base: [Digest.parse(digest) for digest in digests] for base, digests in found.items()}


async def read_former_images(
    documents: ImageDocuments,
    digests: Mapping[Reference, Sequence[Digest]],
    platforms: Iterable[Platform],
    has_ledger: Callable[[str], bool],
    unread: Iterable[UnreadImage],
    *,
    max_units: int,
) -> FormerImages:
    """Read former images. `digests`: of each tag, the oldest first. `unread`: what is already known to be unreadable.

    `platforms`: those to read. `has_ledger`: whether a registry keeps a ledger, and so overwritten images.
    `max_units`: maximum number of their layers and history lines in memory.
    """
    cached, wanted = documents.cached_only(), tuple(dict.fromkeys(platforms))
    listed = [(base, digest) for base, several in digests.items() for digest in reversed(several)]

    gate, units = asyncio.Semaphore(AT_ONCE), 0

    async def read(base: Reference, digest: Digest) -> list[Candidate] | UnreadImage:
        nonlocal units
        source = documents if has_ledger(base.registry) else cached
        remote = RemoteRepository(base.registry, base.repository)
        found: dict[Digest, Candidate] = {}
        try:
            async with gate:
                for platform in wanted:
                    if units > max_units:
                        raise TooLarge("too many former images at a time")
                    facts = await source.facts_for(remote, digest, platform)
                    if facts is not None and facts.manifest not in found:
                        found[facts.manifest] = Candidate(base, digest, facts)
                        units += len(facts.diff_ids) + len(facts.history)
        except NotAnImage:  # nothing is built on a signature, SBOM or chart
            return []
        except BoltsealError as error:
            why = f"{base} formerly resolved to {digest}, whose layers are unknown: {error.message}"
            return UnreadImage(base.name, why)
        return list(found.values())

    failures, candidates = list(unread), list[Candidate]()
    for result in await asyncio.gather(*(read(base, digest) for base, digest in listed[:MAX_FORMER])):
        if isinstance(result, UnreadImage):
            failures.append(result)
        else:
            candidates += result
    failures += [
        UnreadImage(name, f"tags moved more than {MAX_FORMER} times, which is the limit")
        for name in dict.fromkeys(base.name for base, _ in listed[MAX_FORMER:])
    ]
    return FormerImages(tuple(candidates), tuple(failures))
