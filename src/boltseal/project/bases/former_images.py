"""What the tags of a look resolved to before: a base that has moved since is still the base of what was built on it.

The image of a tag that moved is no longer among the images of the look. Of what is left, an image begins with its base's own
base, too, which would pass for its base. So the images that tags resolved to before count as well:

1. Which ones: by the ledger of the tag's registry, also of tags that are gone; by the log of observations of a mirror; by
   what `boltseal watch` and our own looks saw. Of a tag that never moved nothing more is asked than before.
2. Their layers: read by digest, once in a lifetime, from a registry that keeps a ledger, since it keeps what was
   overwritten. Another registry is not asked: what was read there before counts.
3. What can't be read may be the base of any image of another repository. The reason is kept, for the verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, TooLarge
from boltseal.ledger.audit import GOES
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.rule_decision import signature_subject
from boltseal.project.bases.image_documents import AT_ONCE, ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import NotAnImage
from boltseal.project.bases.layer_match import Candidate

MAX_FORMER: Final = 5_000
"""How many images that tags resolved to before are read at a look."""
MOVED_OR_GONE: Final = frozenset({EntryKind.TAG_MOVED, EntryKind.TAG_RESTORED}) | GOES
"""Kinds of entries after which a tag no longer resolves to what it did; one that never moved has none of them."""
SERVED_KINDS: Final = frozenset({EntryKind.OBSERVED, EntryKind.ACCEPTED})
"""Kinds of observations that say what an upstream's tag was served as."""


class TooMuch(TooLarge):
    """More former images, or larger ones, than are held at a time."""


class UnreadImage(NamedTuple):
    """An image, or a repository's history, that can't be read. `name`: registry and repository."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FormerImages:
    """The images that tags resolved to before, each for one platform; and what is not known of them."""

    candidates: tuple[Candidate, ...] = ()
    unread: tuple[UnreadImage, ...] = ()

    def doubt(self, own: Reference) -> str:
        """Why an image's layers don't prove its base: what may be the base and is not known. "" for nothing.

        Images of one repository are no bases of one another.
        """
        return next((one.reason for one in self.unread if one.name != own.name), "")


def former_digests(
    place: RemoteRepository, entries: Iterable[Entry], kinds: frozenset[EntryKind] = MOVED_OR_GONE
) -> dict[Reference, list[Digest]]:
    """What each tag of a repository resolved to around the entries of these kinds, the oldest first.

    Tags of the signature tools are left out: nothing is built on a signature.
    """
    found: dict[Reference, dict[str, None]] = {}
    for entry in entries:
        if entry.kind in kinds and entry.tag and signature_subject(entry.tag) is None:
            base = Reference(place.registry, place.repository, Tag(entry.tag))
            found.setdefault(base, {}).update(dict.fromkeys(one for one in (entry.was, entry.digest) if one))
    return {base: [Digest.parse(one) for one in digests] for base, digests in found.items()}


async def read_former_images(
    documents: ImageDocuments,
    digests: Mapping[Reference, Sequence[Digest]],
    platforms: Iterable[Platform],
    has_ledger: Callable[[str], bool],
    unread: Iterable[UnreadImage],
    *,
    max_units: int,
) -> FormerImages:
    """The images that tags resolved to before. `digests`: of each tag, the oldest first. `unread`: what is not known already.

    `platforms`: those that are looked at. `has_ledger`: whether a registry keeps one, and so what was overwritten.
    `max_units`: how many layers and lines of history of them are held.
    """
    held, wanted = documents.held(), tuple(dict.fromkeys(platforms))
    listed = [(base, digest) for base, several in digests.items() for digest in reversed(several)]

    gate, units = asyncio.Semaphore(AT_ONCE), 0

    async def read(base: Reference, digest: Digest) -> list[Candidate] | UnreadImage:
        nonlocal units
        asked, place = (
            documents if has_ledger(base.registry) else held,
            RemoteRepository(base.registry, base.repository),
        )
        found: dict[Digest, Candidate] = {}
        try:
            async with gate:
                for platform in wanted:
                    if units > max_units:
                        raise TooMuch("it is one of more images than are looked at together")
                    facts = await asked.facts_for(place, digest, platform)
                    if facts is not None and facts.manifest not in found:
                        found[facts.manifest] = Candidate(base, digest, facts)
                        units += len(facts.diff_ids) + len(facts.history)
        except NotAnImage:  # nothing is built on a signature, an SBOM or a chart
            return []
        except BoltsealError as error:
            why = f"{base} resolved to {digest.short} before, the layers of which are not known: {error.message}"
            return UnreadImage(base.name, why)
        return list(found.values())

    missed, candidates = list(unread), list[Candidate]()
    for one in await asyncio.gather(*(read(base, digest) for base, digest in listed[:MAX_FORMER])):
        if isinstance(one, UnreadImage):
            missed.append(one)
        else:
            candidates += one
    missed += [
        UnreadImage(name, f"tags moved more often than the {MAX_FORMER} times that are looked at")
        for name in dict.fromkeys(base.name for base, _ in listed[MAX_FORMER:])
    ]
    return FormerImages(tuple(candidates), tuple(missed))
