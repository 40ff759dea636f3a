"""Find other images of a scan that may be the base of an image, by their layers. Pure.

The candidates are the current images of tags, and former ones as far as known (`former_images`). `base_resolution`
decides which of them is the base, and whether it is outdated.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from boltseal.oci.annotations import BASE_NAME
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BaseClaim, ClaimKind, ClaimSource
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate, inherits_label, may_be_base, nearness
from boltseal.project.bases.siblings import is_plausible

MAX_NEARER: Final = 4
"""Maximum number of candidates for one image, of those whose layers it begins with."""
MAX_ALIKE: Final = 100
"""Maximum number of images with possibly the same layers that are compared for that, and of former ones."""


class CandidatePool:
    """The images of a scan as possible bases of each other. `former`: former images of tags."""

    def __init__(self, images: Iterable[Candidate], former: Iterable[Candidate]) -> None:
        self._current: dict[int, dict[str, list[Candidate]]] = {}
        for candidate in images:
            *_, chain = 0, *_chains(candidate.facts.diff_ids)
            same_layers = self._current.setdefault(chain, {}).setdefault(candidate.base.name, [])
            if len(same_layers) < MAX_NEARER:
                same_layers.append(candidate)
        self._former: dict[int, dict[int, dict[tuple[Reference, str], Candidate]]] = {}
        for candidate in former:
            facts = candidate.facts
            *_, chain = 0, *_chains(facts.diff_ids)
            *_, history = 0, *_chains(facts.history)
            same_history = self._former.setdefault(chain, {}).setdefault(history, {})
            same_history.setdefault((candidate.base, facts.labels.get(BASE_NAME, "")), candidate)

    def closer_bases(self, own_name: str, facts: ImageFacts, claims: Sequence[BaseClaim]) -> tuple[BaseClaim, ...]:
        """Return bases in the pool that may be closer than the claimed one, the closest first.

        Only if the claim is a label that the base may have had already, or if there is no claim.
        """
        if not needs_layer_match(claims):
            return ()
        labelled = any(claim.source is ClaimSource.LABEL for claim in claims)
        chains = [*_chains(facts.diff_ids)][::-1]
        current = (
            candidate
            for chain in chains
            for name, same_layers in self._current.get(chain, {}).items()
            if name != own_name
            for candidate in same_layers
        )
        former = (candidate for candidate in self._former_matches(facts, chains) if candidate.base.name != own_name)
        matches = [
            candidate
            for candidate in (*islice(current, MAX_ALIKE), *islice(former, MAX_ALIKE))
            if may_be_base(facts, candidate.facts)
            and (not labelled or inherits_label(facts, BASE_NAME, candidate.facts))
        ]
        # among equally close ones, the current images of tags come first
        matches.sort(key=lambda candidate: nearness(facts, candidate.facts), reverse=True)
        return tuple(
            dict.fromkeys(
                BaseClaim(candidate.base, None, ClaimSource.LAYERS, ClaimKind.PROVEN) for candidate in matches
            )
        )[:MAX_NEARER]

    def siblings(self, own_name: str, facts: ImageFacts, claims: Sequence[BaseClaim]) -> tuple[Candidate, ...]:
        """Return images of an image's own repository that may be its base, the closest first. See `siblings`."""
        if not needs_layer_match(claims):
            return ()
        chains = [*_chains(facts.diff_ids)][::-1]
        current = (candidate for chain in chains for candidate in self._current.get(chain, {}).get(own_name, ()))
        former = (candidate for candidate in self._former_matches(facts, chains) if candidate.base.name == own_name)
        found = (candidate for candidate in (*current, *islice(former, MAX_ALIKE)) if is_plausible(facts, candidate))
        return tuple(sorted(found, key=lambda candidate: nearness(facts, candidate.facts), reverse=True))

    def _former_matches(self, facts: ImageFacts, chains: Iterable[int]) -> Iterator[Candidate]:
        """Yield former images whose layers and history the image may begin with, the closest first."""
        histories = [*_chains(facts.history)][::-1] if self._former else []
        for chain in chains:
            of_chain = self._former.get(chain, {})
            for history in histories if of_chain else ():
                yield from of_chain.get(history, {}).values()


def needs_layer_match(claims: Iterable[BaseClaim]) -> bool:
    """Return whether layers must decide the base: there is no claim, or only a label, which may be inherited."""
    return not any(claim.sure or claim.source is ClaimSource.PROVENANCE for claim in claims)


def _chains(parts: Iterable[Hashable]) -> Iterator[int]:
    """Yield a hash for each prefix of a list of layers or history lines; equal hashes still need a comparison."""
    chain = 0
    for part in parts:
        chain = hash((chain, part))
        yield chain
