"""Find rules that can never apply, since earlier rules match every tag that they match. Exact.

A rule's names are pairs: repository, tag. The rule can be reached when there is a valid pair that its globs
match and that no earlier rule's globs both match. That is decided in two passes over automata:

1. Walk all repository names that are valid and match the rule's repository glob, keeping at the same time
   where every earlier rule's repository glob could stand. At the end of a name, the earlier rules whose glob
   matched it are the ones that can still take the pair: a set. Only the smallest such sets matter.
2. For each of these sets, walk all valid tags that match the rule's tag glob, and look for one that no tag
   glob of the set matches.

Both walks go in order of length, so that the length limits of names hold exactly. The positions of all globs
are the bits of one integer, which makes a step three operations; of two walks that stand at the same place of
the rule's glob only the one that more names can escape from is followed (an antichain). The number of steps
is bounded; over the bound the answer is TooComplex, never a guess.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid
from boltseal.oci.reference import MAX_REPOSITORY_BYTES, MAX_TAG_BYTES, NameInvalid, Repository, Tag, TagInvalid
from boltseal.policy.globs import Glob

MAX_STEPS: Final = 4_000_000
"""Steps of the walks for one whole rule set, comparisons included: less than a second."""

Names = tuple[Glob, Glob]
"""The names of a rule: its repository glob and its tag glob."""


class TooComplex(Invalid):
    """The search whether a rule can apply was stopped after MAX_STEPS."""


class Budget:
    """Counts the steps of all walks for one rule set, and ends them with TooComplex."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Count further steps. Raises: TooComplex when the budget is used up."""
        self.left -= steps
        if self.left < 0:
            raise TooComplex(
                "the globs of this rule and of those before it are too many and too complex to find out "
                "whether it can ever apply; use fewer stars, or put it further up"
            )


def covering(names: Names, earlier: Sequence[Names], budget: Budget) -> tuple[int, ...] | None:
    """Return which `earlier` names together match all of `names`; None when they miss a pair.

    The result has indices into `earlier` in rising order. None of them could be left out, unless the budget ended during
    the search for the shortest explanation. It is empty when no valid pair matches `names`.
    """
    if _escapes(names, earlier, budget):
        return None
    needed = list(range(len(earlier)))
    try:
        for index in reversed(range(len(earlier))):
            fewer = [other for other in needed if other != index]
            if not _escapes(names, [earlier[other] for other in fewer], budget):
                needed = fewer
    except TooComplex:
        return tuple(needed)
    return tuple(needed)


def _escapes(names: Names, earlier: Sequence[Names], budget: Budget) -> bool:
    """Return whether `names` match a valid pair that none of `earlier` matches."""
    repository, tag = names
    if _an_example_escapes(names, earlier):
        return True
    smallest: list[frozenset[int]] = []
    for matched in _walk(repository, [other[0] for other in earlier], REPOSITORY, budget):
        if any(known <= matched for known in smallest):
            continue
        smallest.append(matched)
        tags = [earlier[index][1] for index in sorted(matched)]
        if any(not taken for taken in _walk(tag, tags, TAG, budget)):
            return True
    return False


def _an_example_escapes(names: Names, earlier: Sequence[Names]) -> bool:
    """Test one example pair before the full search, since one pair shows for most rules that they can apply."""
    repository, tag = (_example(glob) for glob in names)
    try:
        Repository(repository), Tag(tag)
    except (NameInvalid, TagInvalid):
        return False
    return not any(other[0].matches(repository) and other[1].matches(tag) for other in earlier)


def _example(glob: Glob) -> str:
    """Return a text that the glob matches, not always a valid name: "z" for a star, else the last possible character."""
    return "".join("z" if step.repeat else max(step.characters) for step in glob.steps)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The grammar of valid names: a deterministic automaton that starts in state 0, and a length limit."""

    characters: str
    next_state: Callable[[int, str], int | None]
    states: int
    accepting: int
    max_length: int


_ALNUM = frozenset(string.ascii_lowercase + string.digits)

_SEPARATORS: Mapping[tuple[int, str], int] = {
    (1, "/"): 0,
    (1, "."): 2,
    (1, "_"): 3,
    (3, "_"): 4,
    (1, "-"): 5,
    (5, "-"): 5,
}


def _next_in_repository(state: int, character: str) -> int | None:
    """Return the next state. 0: a component must begin; 1: after a letter or digit; 2: ".", 3: "_", 4: "__", 5: dashes."""
    return 1 if character in _ALNUM else _SEPARATORS.get((state, character))


def _next_in_tag(state: int, character: str) -> int | None:
    """Return the next state. 0: the tag must begin; 1: inside the tag."""
    return None if state == 0 and character in ".-" else 1


REPOSITORY: Final = Grammar(
    string.ascii_lowercase + string.digits + "._-/", _next_in_repository, 6, 1, MAX_REPOSITORY_BYTES
)
TAG: Final = Grammar(string.ascii_letters + string.digits + "._-", _next_in_tag, 2, 1, MAX_TAG_BYTES)


def _walk(glob: Glob, others: Sequence[Glob], grammar: Grammar, budget: Budget) -> Iterator[frozenset[int]]:
    """Yield, for valid names that `glob` matches, which of `others` match them too. Repeats and supersets may be left out."""
    positions = _Positions(others)
    moves = _moves(glob, positions, grammar)
    end = len(glob.steps)
    frontier = [(0, at, positions.start) for at in _rest(glob, 0)]
    seen: dict[tuple[int, int], set[int]] = {}
    for _ in range(grammar.max_length):
        reached: list[tuple[int, int, int]] = []
        for state, at, held in frontier:
            if held not in seen.get((state, at), (held,)):
                continue  # a later walk of equal length reached this place, and fewer globs match it
            for next_state, places, advance, stay in moves[at].get(state, ()):
                next_held = positions.step(held, advance, stay)
                for place in places:
                    known = seen.setdefault((next_state, place), set())
                    budget.spend(1)
                    if next_held in known:
                        continue
                    budget.spend(len(known))
                    if any(other & next_held == other for other in known):
                        continue
                    known.difference_update([other for other in known if other & next_held == next_held])
                    known.add(next_held)
                    reached.append((next_state, place, next_held))
                    if place == end and next_state == grammar.accepting:
                        yield positions.matched(next_held)
        frontier = reached
        if not frontier:
            return


_Move = tuple[int, tuple[int, ...], int, int]
"""Next state of the grammar, the next positions in the glob, and the `advance` and `stay` masks of the other globs."""


def _moves(glob: Glob, positions: _Positions, grammar: Grammar) -> list[dict[int, list[_Move]]]:
    """Return the distinct moves for each place in the glob and state of the grammar."""
    states = range(grammar.states)
    table: list[dict[int, list[_Move]]] = []
    for at in range(len(glob.steps) + 1):
        if at == len(glob.steps):
            table.append({})
            continue
        step = glob.steps[at]
        places = tuple(_rest(glob, at if step.repeat else at + 1))
        moves: dict[int, dict[_Move, None]] = {}
        for character in grammar.characters:
            if character not in step.characters:
                continue
            for state in states:
                next_state = grammar.next_state(state, character)
                if next_state is not None:
                    move = (next_state, places, positions.advance[character], positions.stay[character])
                    moves.setdefault(state, {})[move] = None
        table.append({state: list(found) for state, found in moves.items()})
    return table


def _rest(glob: Glob, at: int) -> Iterator[int]:
    """Yield the possible places of a walk that reached `at`: a star may match no character."""
    yield at
    if at < len(glob.steps) and glob.steps[at].repeat:
        yield at + 1


class _Positions:
    """The possible positions in several globs as one bit mask: glob i has the bits base(i) ... base(i) + its steps.

    A parsed glob has no two adjacent stars, so that one shift passes over all stars.
    """

    def __init__(self, globs: Sequence[Glob]) -> None:
        self.advance = dict.fromkeys(string.ascii_letters + string.digits + "._-/", 0)
        self.stay = dict(self.advance)
        self._stars = 0
        self._ends: list[int] = []
        bases = 0
        bit = 1
        for glob in globs:
            bases |= bit
            for step in glob.steps:
                masks = self.stay if step.repeat else self.advance
                for character in step.characters:
                    masks[character] |= bit
                if step.repeat:
                    self._stars |= bit
                bit <<= 1
            self._ends.append(bit)
            bit <<= 1
        self.start = bases | (bases & self._stars) << 1

    def step(self, held: int, advance: int, stay: int) -> int:
        """Return the mask after one more character. `advance`, `stay`: the masks of the character."""
        held = (held & advance) << 1 | held & stay
        return held | (held & self._stars) << 1

    def matched(self, held: int) -> frozenset[int]:
        """Return the globs that match the characters read so far."""
        return frozenset(index for index, end in enumerate(self._ends) if held & end)
