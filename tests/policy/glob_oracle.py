"""A second, slow and simple implementation of globs for comparison: it shares nothing with the product."""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import suppress
from functools import cache

from boltseal.errors import Invalid
from boltseal.oci.reference import Repository, Tag

REPOSITORY_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789._-/"
TAG_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


def split_glob(glob: str) -> tuple[str, ...]:
    """Split a glob into its parts: `a*[!b-d]**` -> ("a", "*", "[!b-d]", "**")."""
    found: list[str] = []
    rest = glob
    while rest:
        if rest[0] == "*":
            run = len(rest) - len(rest.lstrip("*"))
            found.append("*" if run == 1 else "**")
            rest = rest[run:]
        elif rest[0] == "[":
            end = rest.index("]") + 1
            found.append(rest[:end])
            rest = rest[end:]
        else:
            found.append(rest[0])
            rest = rest[1:]
    return tuple(found)


def takes(part: str, character: str) -> bool:
    """Return whether this part of a glob matches this character."""
    if part == "**":
        return True
    if part in ("*", "?"):
        return character != "/"
    if part[0] != "[":
        return part == character
    body = part[1:-1]
    negated = body[0] == "!"
    body = body.removeprefix("!")
    inside = False
    while body:
        if len(body) >= 3 and body[1] == "-":
            inside |= ord(body[0]) <= ord(character) <= ord(body[2])
            body = body[3:]
        else:
            inside |= body[0] == character
            body = body[1:]
    return character != "/" and inside != negated


def oracle_matches(glob: str, name: str) -> bool:
    """Return whether a glob matches, by trying everything and remembering failures."""
    parts = split_glob(glob)

    @cache
    def fits(index: int, at: int) -> bool:
        if index == len(parts):
            return at == len(name)
        taken = at < len(name) and takes(parts[index], name[at])
        if parts[index] in ("*", "**"):
            return fits(index + 1, at) or (taken and fits(index, at + 1))
        return taken and fits(index + 1, at + 1)

    return fits(0, 0)


def _closure(parts: tuple[str, ...], places: set[int]) -> frozenset[int]:
    todo = list(places)
    while todo:
        at = todo.pop()
        if at < len(parts) and parts[at] in ("*", "**") and at + 1 not in places:
            places.add(at + 1)
            todo.append(at + 1)
    return frozenset(places)


def _read(parts: tuple[str, ...], places: frozenset[int], character: str) -> frozenset[int]:
    after = set()
    for at in places:
        if at < len(parts) and takes(parts[at], character):
            after.add(at if parts[at] in ("*", "**") else at + 1)
    return _closure(parts, after)


def _words(globs: tuple[str, ...], alphabet: str, valid: type[str]) -> dict[frozenset[int], str]:
    """Return every set of globs that one valid word in globs[0] can match, each with a shortest such word."""
    parts = [split_glob(glob) for glob in globs]
    start = tuple(_closure(one, {0}) for one in parts)
    seen = {("", start)}
    queue = deque([("", start)])
    found: dict[frozenset[int], str] = {}
    while queue:
        word, places = queue.popleft()
        matched = frozenset(index for index, one in enumerate(parts) if len(one) in places[index])
        if 0 in matched and matched not in found:
            with suppress(Invalid):
                found[matched] = valid(word)
        for character in alphabet:
            after = tuple(_read(one, at, character) for one, at in zip(parts, places, strict=True))
            longer = word + character
            # two characters decide what may follow in a name, so they are part of the state
            if after[0] and (longer[-2:], after) not in seen and _may_go_on(longer, valid):
                seen.add((longer[-2:], after))
                queue.append((longer, after))
    return found


def _may_go_on(word: str, valid: type[str]) -> bool:
    for ending in ("", "a"):
        try:
            valid(word + ending)
        except Invalid:
            continue
        return True
    return False


def escaping(names: tuple[str, str], earlier: list[tuple[str, str]], characters: str) -> tuple[str, str] | None:
    """Return a valid pair that matches `names` and none of `earlier`, by subset construction without any short cut.

    `characters`: representatives of all characters, with at least one that no glob mentions.
    """
    of_repository = "".join(c for c in REPOSITORY_ALPHABET if c in characters)
    of_tag = "".join(c for c in TAG_ALPHABET if c in characters)
    repositories = _words((names[0], *(other[0] for other in earlier)), of_repository, Repository)
    for matched, repository in repositories.items():
        left = [earlier[index - 1][1] for index in sorted(matched - {0})]
        tags = _words((names[1], *left), of_tag, Tag)
        for taken, tag in tags.items():
            if taken == {0}:
                return repository, tag
    return None


def every_name(alphabet: str, longest: int) -> list[str]:
    """Return all words over the alphabet, up to a length."""
    return ["".join(word) for size in range(longest + 1) for word in itertools.product(alphabet, repeat=size)]
