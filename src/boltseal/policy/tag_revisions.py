"""Tags for rebuilds of a sealed tag: revisions, which sort after the tag and before the next version. Pure.

    1.4.2  ->  1.4.2.1, 1.4.2.2, ...        1.4.2-alpine  ->  1.4.2.1-alpine        16.13  ->  16.13.0.1
    1.4.2.0  ->  1.4.2.1                    build-7  ->  build-7.1

The separator is `.` by default; `-r`, `-` and `_` can be configured (`1.4.2-r1-alpine`). ADR 0045 says how tools order these.

A number after three is a revision only where the tag without it exists: `1.4.2.1` beside `1.4.2` or `1.4.2.0`. Otherwise it
is the version's own, and its first revision is `1.4.2.1.1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote
from boltseal.oci.reference import MAX_TAG_BYTES, Tag

DOT: Final = "."
SEPARATORS: Final = (DOT, "-r", "-", "_")
MAX_REVISION: Final = 999_999
_VERSION: Final = re.compile(
    r"(?P<lead>[vV]?)(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,4})(?P<suffix>(?:[-_].*)?)", re.ASCII
)
STAMP: Final = 10_000_000
"""A first number of at least this value is a date or a build number, not a version."""
_PARTS: Final = 3
"""A version with fewer numbers is padded with zeros: `16.13.1` would be its next patch."""


class RevisionInvalid(Invalid):
    """A separator that is not one of `SEPARATORS`, or a tag that can have no further revision."""


class Revised(NamedTuple):
    """The tag that a tag is a revision of, and its number: the tag itself and 0 for a first build."""

    root: Tag
    number: int


def parse_separator(text: str) -> str:
    """Return a configured separator. Raises: RevisionInvalid."""
    if text not in SEPARATORS:
        raise RevisionInvalid(f"revision is {quote(text)}; expected one of {', '.join(map(quote, SEPARATORS))}")
    return text


def revised(tag: Tag, tags: frozenset[Tag], separator: str = DOT) -> Revised:
    """Return what a tag is a revision of. `tags`: all tags of its repository, with tombstones where these are known."""
    return next((found for found in _possible(tag, separator) if found.root in tags), Revised(tag, 0))


def may_be_revision(tag: Tag, separator: str = DOT) -> bool:
    """Return whether a tag has the form of a revision, whatever the other tags are."""
    return any(True for _ in _possible(tag, separator))


def next_revision(tag: Tag, tags: Iterable[Tag], separator: str = DOT) -> Tag:
    """Return the tag for the next rebuild of a tag, or of what it is a revision of. Raises: RevisionInvalid."""
    known = frozenset((tag, *tags))
    root = revised(tag, known, separator).root
    number = 1 + max(found.number for each in known if (found := revised(each, known, separator)).root == root)
    text = _written(root, number, separator)
    if number > MAX_REVISION or len(text) > MAX_TAG_BYTES:
        raise RevisionInvalid(
            f"{quote(tag)} can have no further revision: the next one is {quote(text)}; expected at most "
            f"{MAX_TAG_BYTES} characters and the number {MAX_REVISION}"
        )
    return Tag(text)


def newest_revision(tag: Tag, tags: Iterable[Tag], separator: str = DOT) -> Tag:
    """Return the newest revision of what a tag is a revision of; the tag itself if it is the newest."""
    known = frozenset((tag, *tags))
    own = revised(tag, known, separator)
    later = [(found.number, each) for each in known if (found := revised(each, known, separator)).root == own.root]
    return max(later)[1] if max(later)[0] > own.number else tag


def newer_revisions(tags: frozenset[Tag], separator: str = DOT) -> dict[Tag, Tag]:
    """Return for each tag that is not the newest of its version the newest revision. `tags`: all tags of a repository."""
    own = {tag: revised(tag, tags, separator) for tag in tags}
    newest: dict[Tag, tuple[int, Tag]] = {}
    for tag, (root, number) in own.items():
        newest[root] = max(newest.get(root, (number, tag)), (number, tag))
    return {tag: newest[root][1] for tag, (root, number) in own.items() if newest[root][0] > number}


def _parsed(tag: Tag) -> re.Match[str] | None:
    found = _VERSION.fullmatch(tag)
    return None if found is None or int(found["numbers"].partition(".")[0]) >= STAMP else found


def _written(root: Tag, number: int, separator: str) -> str:
    found = _parsed(root)
    if found is None:
        return f"{root}{separator}{number}"
    numbers = found["numbers"].split(".")
    if separator == DOT:
        if len(numbers) > _PARTS and numbers[-1].strip("0") == "":
            del numbers[-1]  # `1.4.2.0` is the first build of `1.4.2.1`
        numbers += ["0"] * (_PARTS - len(numbers))
    return f"{found['lead']}{'.'.join(numbers)}{separator}{number}{found['suffix']}"


def _possible(tag: Tag, separator: str) -> Iterator[Revised]:
    """Yield what a tag would be a revision of, the most likely first."""
    found = _parsed(tag)
    if found is not None and separator == DOT:
        lead, numbers, suffix = found["lead"], found["numbers"].split("."), found["suffix"]
        if len(numbers) <= _PARTS or int(numbers[-1]) == 0:
            return
        *kept, last = numbers
        yield Revised(Tag(f"{lead}{'.'.join(kept)}{suffix}"), int(last))
        yield Revised(Tag(f"{lead}{'.'.join((*kept, '0'))}{suffix}"), int(last))
        while len(kept) > 1 and kept[-1] == "0":
            kept.pop()
            yield Revised(Tag(f"{lead}{'.'.join(kept)}{suffix}"), int(last))
        return
    pattern = rf"(.+?){re.escape(separator)}([1-9][0-9]{{0,5}})((?:[-_].*)?)"
    for before, number, after in re.findall(rf"^{pattern}$", tag, re.ASCII):
        yield Revised(Tag(f"{before}{after}"), int(number))
