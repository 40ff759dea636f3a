"""Parse `WWW-Authenticate` (RFC 9110, 11.6.1): how a registry wants a client to authenticate. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
MAX_HEADER = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One authentication scheme, in lower case, and its parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Return every challenge of a header, in order. Parsing ends at the first challenge that is malformed."""
    return tuple(_challenges(header[:MAX_HEADER]))


def _challenges(header: str) -> Iterator[Challenge]:
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(header, position):
            quoted = found[2]
            parameters[found[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found[3]
            position = found.end()
        yield Challenge(match[1].lower(), parameters)
