"""Which other images of a look may be the base of one of them, by their layers. Pure.

Those are what tags resolve to now, and what they resolved to before, as far as that is known (`former`). Which of them is
the base, and whether it is outdated, is decided in `judging`.
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

MAX_NEARER: Final = 4
"""How many others are held against an image as its base, of those that it begins with."""
MAX_ALIKE: Final = 100
"""How many others that may have the same layers are compared with it for that, and how many that tags resolved to before."""


class CandidatePool:
    """The images of this look, as bases of one another: by all of their layers. `former`: what tags resolved to before."""

    def __init__(self, images: Iterable[Candidate], former: Iterable[Candidate]) -> None:
        self._held: dict[int, dict[str, list[Candidate]]] = {}
        for candidate in images:
            *_, chain = 0, *_chains(candidate.facts.diff_ids)
            alike = self._held.setdefault(chain, {}).setdefault(candidate.base.name, [])
            if len(alike) < MAX_NEARER:
                alike.append(candidate)
        self._former: dict[int, dict[int, dict[tuple[Reference, str], Candidate]]] = {}
        for candidate in former:
            facts = candidate.facts
            *_, chain = 0, *_chains(facts.diff_ids)
            *_, history = 0, *_chains(facts.history)
            same = self._former.setdefault(chain, {}).setdefault(history, {})
            same.setdefault((candidate.base, facts.labels.get(BASE_NAME, "")), candidate)

    def nearer(self, own: str, facts: ImageFacts, claims: Sequence[BaseClaim]) -> tuple[BaseClaim, ...]:
        """Bases among the others that may be nearer than what the image is said to stand on, the nearest first.

        Where only a label speaks, and the label came with the base; or where nobody speaks.
        """
        if not needs_layer_match(claims):
            return ()
        said = any(claim.by is ClaimSource.LABEL for claim in claims)
        chains = [*_chains(facts.diff_ids)][::-1]
        now = (
            candidate
            for chain in chains
            for name, alike in self._held.get(chain, {}).items()
            if name != own
            for candidate in alike
        )
        former = (candidate for candidate in self._formerly(facts, chains) if candidate.base.name != own)
        found = [
            candidate
            for candidate in (*islice(now, MAX_ALIKE), *islice(former, MAX_ALIKE))
            if may_be_base(facts, candidate.facts) and (not said or inherits_label(facts, BASE_NAME, candidate.facts))
        ]
        # of those that are equally near, the ones that a tag still resolves to come first
        found.sort(key=lambda candidate: nearness(facts, candidate.facts), reverse=True)
        return tuple(dict.fromkeys(BaseClaim(one.base, None, ClaimSource.LAYERS, ClaimKind.PROVEN) for one in found))[
            :MAX_NEARER
        ]

    def _formerly(self, facts: ImageFacts, chains: Iterable[int]) -> Iterator[Candidate]:
        """What tags resolved to before and the image's layers and history may begin with, the nearest first."""
        histories = [*_chains(facts.history)][::-1] if self._former else []
        for chain in chains:
            of_chain = self._former.get(chain, {})
            for history in histories if of_chain else ():
                yield from of_chain.get(history, {}).values()


def needs_layer_match(claims: Iterable[BaseClaim]) -> bool:
    """Whether the layers of other images may tell the base: where only a label speaks, which may be the base's, or nobody."""
    return not any(claim.sure or claim.by is ClaimSource.PROVENANCE for claim in claims)


def _chains(parts: Iterable[Hashable]) -> Iterator[int]:
    """A number for each beginning of a list of layers, or of a history; who has the same number is still to be compared."""
    chain = 0
    for part in parts:
        chain = hash((chain, part))
        yield chain
