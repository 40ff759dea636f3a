"""Find a rule that can never apply, by comparing its globs with those of one earlier rule at a time.

A rule is unreachable when no valid repository or tag matches its glob (`matches_no_name`), or when both globs of one
earlier rule include its own (`first_including`). The answer "unreachable" is always right; "reachable" is exact for
globs without wildcards and globs whose only wildcard is a `*` or `**` at the end. Other globs may be unreachable without
being found: when only several earlier rules together match all of their names, and for some with `?`, a class, or two
stars (ADR 0031).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable

from boltseal.errors import Invalid
from boltseal.oci.reference import MAX_REPOSITORY_BYTES, MAX_TAG_BYTES, Repository, Tag
from boltseal.policy.globs import Glob

_ALNUM = frozenset(string.ascii_letters + string.digits)


def first_including(repository: Glob, tag: Glob, earlier: Iterable[tuple[Glob, Glob]]) -> int | None:
    """Return the index of the first pair of repository and tag glob that includes both globs; None if none does."""
    repository_example, tag_example = _example(repository), _example(tag)
    for index, (wide_repository, wide_tag) in enumerate(earlier):
        # One example rules out almost every pair, and costs less than the comparison of the steps.
        if not (wide_repository.matches(repository_example) and wide_tag.matches(tag_example)):
            continue
        if _includes(wide_repository, repository) and _includes(wide_tag, tag):
            return index
    return None


def _includes(wide: Glob, narrow: Glob) -> bool:
    """Return whether `wide` matches every name that `narrow` matches, as far as comparing their steps shows.

    The steps of `narrow` are read like the characters of a name: a step of `wide` matches a step of `narrow` when it
    has all of its characters. Only a star of `wide` matches a star of `narrow`.
    """
    reached = _after_stars(wide, {0})
    for step in narrow.steps:
        after = set()
        for at in reached - {len(wide.steps)}:
            candidate = wide.steps[at]
            if candidate.characters >= step.characters and candidate.repeat >= step.repeat:
                after.add(at if candidate.repeat else at + 1)
        reached = _after_stars(wide, after)
    return len(wide.steps) in reached


def _after_stars(glob: Glob, places: set[int]) -> set[int]:
    """Return `places` and those behind a star at one of them: a star may match no character. No two stars are adjacent."""
    return places | {at + 1 for at in places if at < len(glob.steps) and glob.steps[at].repeat}


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
