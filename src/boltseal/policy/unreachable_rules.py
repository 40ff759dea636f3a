"""Find a rule that can never apply, by comparing its globs with those of one earlier rule at a time.

A rule is unreachable when no valid repository or tag matches its glob (`matches_no_name`), or when both globs of one
earlier rule include its own (`EarlierRules.first_including`). The answer "unreachable" is always right; "reachable" is exact
for globs without wildcards and globs whose only wildcard is a `*` or `**` at the end. Other globs may be unreachable without
being found: when only several earlier rules together match all of their names, and for some with `?`, a class, or two
stars (ADR 0031).

The comparison of a rule set has a budget of steps. Only sets of hundreds of long globs with many stars exceed it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from typing import Final

from boltseal.errors import Invalid
from boltseal.oci.reference import MAX_REPOSITORY_BYTES, MAX_TAG_BYTES, Repository, Tag
from boltseal.policy.globs import Glob, GlobStep

MAX_STEPS: Final = 3_000_000
"""Steps that the comparison of one rule set may take: a few seconds. A thousand rules of `*-NAME-*` need a third of them."""
_MATCHED_IN_A_STEP: Final = 64
"""Characters that a regular expression looks at in the time of a step, for each star of a glob."""
_TOO_MANY: Final = "the rules have too many long globs with stars to be compared with each other"
_ALNUM = frozenset(string.ascii_letters + string.digits)


class TooManySteps(Invalid):
    """The rules can't be compared with each other in bounded time."""


class EarlierRules:
    """The globs of the rules before one, and the steps that comparing with them may still take."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._steps_left = steps
        self._pairs: list[tuple[_WideGlob, _WideGlob]] = []
        self._known: dict[tuple[GlobStep, ...], _WideGlob] = {}

    def add(self, repository: Glob, tag: Glob) -> None:
        """Add the globs of a rule after those that are there."""
        self._pairs.append((self._wide(repository), self._wide(tag)))

    def first_including(self, repository: Glob, tag: Glob) -> int | None:
        """Return the index of the first pair of globs that includes both globs; None if none does. Raises: TooManySteps."""
        repository_example, tag_example = _shortest(repository), _shortest(tag)
        for index, (wide_repository, wide_tag) in enumerate(self._pairs):
            # One example rules out almost every pair, and costs less than the comparison of the steps.
            if not (self._matches(wide_repository, repository_example) and self._matches(wide_tag, tag_example)):
                continue
            if self._includes(wide_repository, repository) and self._includes(wide_tag, tag):
                return index
        return None

    def _wide(self, glob: Glob) -> _WideGlob:
        if glob.steps not in self._known:  # equal texts of a repository and a tag are other globs
            self._known[glob.steps] = _WideGlob(glob)
        return self._known[glob.steps]

    def _matches(self, wide: _WideGlob, example: str) -> bool:
        self._steps_left -= 1 + wide.stars * len(example) // _MATCHED_IN_A_STEP
        if self._steps_left < 0:
            raise TooManySteps(_TOO_MANY)
        return wide.glob.matches(example)

    def _includes(self, wide: _WideGlob, narrow: Glob) -> bool:
        included, steps = wide.includes(narrow, self._steps_left)
        self._steps_left -= steps
        return included


class _WideGlob:
    """A glob that may include others: its steps as bits of integers, so that all of them are followed at once.

    Bit n stands for step n; the bit after the last one for the end of the glob. `stars`: how many stars it has.
    """

    def __init__(self, glob: Glob) -> None:
        self.glob = glob
        self._end = 1 << len(glob.steps)
        self._stars = sum(1 << at for at, step in enumerate(glob.steps) if step.repeat)
        self.stars = self._stars.bit_count()
        self._having: dict[str, int] = {}
        for at, step in enumerate(glob.steps):
            for character in step.characters:
                self._having[character] = self._having.get(character, 0) | 1 << at
        self._having_all: dict[frozenset[str], int] = {}

    def includes(self, narrow: Glob, steps: int) -> tuple[bool, int]:
        """Return whether this glob matches every name that `narrow` matches, as far as comparing their steps shows.

        The steps of `narrow` are read like the characters of a name: a step of this glob matches a step of `narrow` when it
        has all of its characters. Only a star of this glob matches a star of `narrow`. The second result: how many steps
        that took. Raises: TooManySteps: more than `steps`.
        """
        taken = 0
        reached = self._after_stars(1)
        for step in narrow.steps:
            taken += 1 if step.characters in self._having_all else 1 + len(step.characters)
            if taken > steps:
                raise TooManySteps(_TOO_MANY)
            matching = reached & self._matching(step.characters)
            after = matching & self._stars
            if not step.repeat:
                after |= (matching & ~self._stars) << 1
            reached = self._after_stars(after)
            if not reached:
                break
        return bool(reached & self._end), taken

    def _after_stars(self, reached: int) -> int:
        """Return `reached` and the steps behind a star of it: a star may match no character. No two stars are adjacent."""
        return reached | (reached & self._stars) << 1

    def _matching(self, characters: frozenset[str]) -> int:
        """Return the steps that have all of these characters."""
        found = self._having_all.get(characters)
        if found is None:
            found = self._end - 1
            for character in characters:
                found &= self._having.get(character, 0)
            self._having_all[characters] = found
        return found


def each_included(narrow: Iterable[Glob], wide: Iterable[Glob], steps: int = MAX_STEPS // 10) -> bool:
    """Return whether each glob of `narrow` is included by one of `wide`, as far as comparing their steps shows.

    The answer True is always right. It is False also if the comparison takes more than `steps`.
    """
    wides = [_WideGlob(glob) for glob in wide]
    for glob in narrow:
        for each in wides:
            try:
                included, taken = each.includes(glob, steps)
            except TooManySteps:
                return False
            steps -= taken
            if included:
                break
        else:
            return False
    return True


def _shortest(glob: Glob) -> str:
    """Return a shortest text that the glob matches. It may be no valid name."""
    return "".join(min(step.characters) for step in glob.steps if not step.repeat)


def _example(glob: Glob) -> str:
    """Return a text that the glob matches: a letter or digit for each step that has one. It may be no valid name."""
    return "".join(min(step.characters & _ALNUM or step.characters) for step in glob.steps)


def matches_no_name(repository: Glob, tag: Glob) -> bool:
    """Return whether no valid repository matches `repository`, or no valid tag matches `tag`."""
    return _matches_none(repository, Repository, MAX_REPOSITORY_BYTES) or _matches_none(tag, Tag, MAX_TAG_BYTES)


def _matches_none(glob: Glob, parse: Callable[[str], str], max_length: int) -> bool:
    """Return whether the glob matches no valid name. False also where that is not certain.

    A letter or digit is valid everywhere in a name, so the name that takes one at each step is valid if any is.
    """
    if sum(not step.repeat for step in glob.steps) > max_length:
        return True
    example = _example(glob)
    choice_of_separators = any(len(step.characters) > 1 and not step.characters & _ALNUM for step in glob.steps)
    if choice_of_separators or len(example) > max_length:
        return False
    try:
        parse(example)
    except Invalid:
        return True
    return False
