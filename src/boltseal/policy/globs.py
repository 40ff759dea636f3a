"""Parse and match globs over repository names, tags and claims, in bounded time for every glob and name.

    glob      = { literal | "?" | "*" | "**" | class }
    class     = "[" ["!"] member { member } "]"          member = character | character "-" character
    "*"       any run of characters without "/", also an empty one
    "**"      any run of characters, "/" included, also an empty one
    "?"       one character other than "/"; a class never matches "/" either

Globs are anchored at both ends and case-sensitive. There is no escape character: a character that no repository or tag
contains is refused in a glob as well, since it could never match.

`rules` uses globs; `unreachable_rules` decides whether one glob includes another.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from boltseal.errors import Invalid, quote

REPOSITORY_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + "._-/")
TAG_CHARACTERS = frozenset(string.ascii_letters + string.digits + "._-")
CLAIM_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation + " ") - frozenset("*?[]")

MAX_GLOB_LENGTH = 512
"""Maximum characters of a glob. It is more than a name has (255), since a class needs several for one."""


class GlobInvalid(Invalid):
    """A glob that breaks the grammar, or has a character that no name of its kind contains."""


@dataclass(frozen=True, slots=True)
class GlobStep:
    """One step of a glob: the characters that it matches, once (`repeat` false) or any number of times."""

    characters: frozenset[str]
    repeat: bool = False


_EVERYTHING = (GlobStep(REPOSITORY_CHARACTERS, repeat=True), GlobStep(TAG_CHARACTERS, repeat=True))


@dataclass(frozen=True, slots=True)
class Glob:
    """A parsed glob. `text`: as the user wrote it. `steps`: the parsed form. `pattern`: a regular expression for it.

    Two globs are equal when their texts are. Names are matched whole: `glob.pattern.fullmatch(name)`.
    """

    text: str
    steps: tuple[GlobStep, ...]
    pattern: re.Pattern[str]

    def __str__(self) -> str:
        return self.text

    def matches(self, name: str) -> bool:
        """Return whether the glob matches the whole name."""
        return self.pattern.fullmatch(name) is not None

    @property
    def matches_all(self) -> bool:
        """Whether the glob matches every name of its kind by construction ("**", for a tag also "*")."""
        return len(self.steps) == 1 and self.steps[0] in _EVERYTHING


def parse_repository_glob(text: str) -> Glob:
    """Parse a glob over repository names. Raises: GlobInvalid."""
    return _parse(text, REPOSITORY_CHARACTERS, "repository")


def parse_tag_glob(text: str) -> Glob:
    """Parse a glob over tags. Raises: GlobInvalid."""
    return _parse(text, TAG_CHARACTERS, "tag")


def parse_claim_glob(text: str) -> Glob:
    """Parse a glob over the values of claims, such as `acme/shop/.github/workflows/*`. Raises: GlobInvalid."""
    return _parse(text, CLAIM_CHARACTERS, "claim")


def _parse(text: str, alphabet: frozenset[str], what: str) -> Glob:
    if not text:
        raise GlobInvalid(f'an empty glob matches no {what}; "{"**" if "/" in alphabet else "*"}" matches every one')
    if len(text) > MAX_GLOB_LENGTH:
        raise GlobInvalid(f"a glob of {len(text)} characters; at most {MAX_GLOB_LENGTH} are allowed")
    segment = alphabet - {"/"}
    steps: list[GlobStep] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character == "*":
            end = at
            while end < len(text) and text[end] == "*":
                end += 1
            steps.append(GlobStep(alphabet if end - at > 1 else segment, repeat=True))
            at = end
        elif character == "?":
            steps.append(GlobStep(segment))
            at += 1
        elif character == "[":
            end = text.find("]", at + 1)
            if end < 0:
                raise GlobInvalid(f'{quote(text)} opens a class with "[" and never closes it with "]"')
            steps.append(GlobStep(_parse_class(text[at + 1 : end], segment, what)))
            at = end + 1
        else:
            steps.append(GlobStep(frozenset({_checked(character, alphabet, what)})))
            at += 1
    return Glob(text, tuple(steps), re.compile(_regex(steps, alphabet)))


def _parse_class(body: str, segment: frozenset[str], what: str) -> frozenset[str]:
    """Return the characters of `[body]`; for `[!body]` all other characters of a path segment."""
    if body.startswith("^"):
        raise GlobInvalid(f"class {quote(f'[{body}]')} is negated with ^; write {quote(f'[!{body[1:]}]')}")
    negated = body.startswith("!")
    members = body[1:] if negated else body
    if not members:
        raise GlobInvalid(f'class "[{body}]" is empty; expected characters or ranges, such as "[a-f0-9]"')
    taken: set[str] = set()
    at = 0
    while at < len(members):
        if at + 2 < len(members) and members[at + 1] == "-":
            first, last = (_checked(members[i], segment, what) for i in (at, at + 2))
            if first > last:
                raise GlobInvalid(f'range "{first}-{last}" runs backwards; write "{last}-{first}"')
            taken |= {character for character in segment if first <= character <= last}
            at += 3
        else:
            taken.add(_checked(members[at], segment, what))
            at += 1
    if negated and taken == segment:
        raise GlobInvalid(f"class {quote(f'[{body}]')} excludes every character, so it matches no {what}")
    return segment - taken if negated else frozenset(taken)


def _checked(character: str, alphabet: frozenset[str], what: str) -> str:
    if character in alphabet:
        return character
    if what == "repository" and character in string.ascii_uppercase:
        raise GlobInvalid(f"{quote(character)} can't be in a repository name: they are lower-case")
    if what == "repository" and character == ":":
        raise GlobInvalid('":" can\'t be in a repository name; the glob of the tag goes into tag')
    if character == "/":
        raise GlobInvalid(f'"/" can\'t be in a {"tag" if what == "tag" else "class"}')
    kinds = {"tag": "A-Z a-z 0-9 . _ -", "repository": "a-z 0-9 . _ - /"}
    kind = kinds.get(what, "printable ASCII")
    raise GlobInvalid(f"{quote(character)} can't be in a {what}; expected {kind} or * ? [ ]")


def _regex(steps: list[GlobStep], alphabet: frozenset[str]) -> str:
    """Return an equivalent regular expression whose run time is at most quadratic in the length of the name.

    Backtracking is what makes expressions slow: `.*a.*a.*a.*b` tries every way to share out the a's. Here
    each star takes the shortest run after which the fixed characters behind it fit, in an atomic group,
    so that it is never asked again. That loses no match, because a shorter run leaves more to those that
    follow: `?` and classes don't match "/", so a "*" can't be helped over a "/" by taking more.
    The one thing that has to be tried again is where a "**" ends when the run of "*" and fixed characters
    after it meets a "/" too early; that whole run, up to the next "**", is one atomic group.
    Names are at most 255 characters, which bounds all of it.
    """
    units: list[list[GlobStep]] = [[]]
    for step in steps:
        if step.repeat and "/" in step.characters:
            units.append([])
        else:
            units[-1].append(step)
    if len(units) == 1:
        return "(?s:" + _unit(units[0], alphabet, to_end=True) + ")"
    middle = "".join(f"(?>.*?{_unit(unit, alphabet)})" for unit in units[1:-1])
    last = units[-1]
    return "(?s:" + _unit(units[0], alphabet) + middle + ".*" + _unit(last, alphabet, to_end=True) + ")"


def _unit(steps: list[GlobStep], alphabet: frozenset[str], *, to_end: bool = False) -> str:
    """Steps without "**". `to_end`: the last star must reach the end of the name, so it is left greedy."""
    pieces: list[list[str]] = [[]]
    for step in steps:
        if step.repeat:
            pieces.append([])
        else:
            pieces[-1].append(_one(step, alphabet))
    text = "".join(pieces[0])
    for piece in pieces[1:-1] if to_end else pieces[1:]:
        text += "(?>[^/]*?" + "".join(piece) + ")"
    if to_end and len(pieces) > 1:
        text += "[^/]*" + "".join(pieces[-1])
    return text


def _one(step: GlobStep, alphabet: frozenset[str]) -> str:
    if len(step.characters) == 1:
        return re.escape(next(iter(step.characters)))
    if step.characters == alphabet - {"/"}:
        return "[^/]"
    return "[" + "".join(re.escape(character) for character in sorted(step.characters)) + "]"
