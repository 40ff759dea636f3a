"""Strict parsing of the query of a URL, on demand.

Escapes are decoded exactly once and must be UTF-8 without control characters. A parameter that takes one value is
refused with two different ones. Unknown parameters are ignored, as the spec's extensions need. `+` is a plus, as in
`application/vnd.example+json`: no accepted value has a space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote as percent_encode
from urllib.parse import unquote

from boltseal.errors import Invalid, quote
from boltseal.server.api.errors import UriTooLong

MAX_QUERY_BYTES: Final = 16 * 1024
MAX_PAGE: Final = 10_000
"""The upper limit of `n`, and the page size without `n`."""

_MAX_DIGITS: Final = 18


class QueryInvalid(Invalid):
    """The query cannot be parsed, or a parameter is invalid."""


class Query:
    """The query parameters of one request."""

    __slots__ = ("_values",)

    def __init__(self, query_string: bytes) -> None:
        """Parse a query string. Raises: QueryInvalid, UriTooLong."""
        self._values: dict[str, list[str]] = {}
        if not query_string:
            return
        if len(query_string) > MAX_QUERY_BYTES:
            msg = f"the query has {len(query_string)} bytes; at most {MAX_QUERY_BYTES} are allowed"
            raise UriTooLong(msg)
        for pair in query_string.split(b"&"):
            name, _, value = pair.partition(b"=")
            if pair:
                self._values.setdefault(_decode(name), []).append(_decode(value))

    def names(self) -> list[str]:
        """Return the names of all parameters in order."""
        return list(self._values)

    def all(self, name: str) -> list[str]:
        """Return all values of a parameter in order."""
        return self._values.get(name, [])

    def value(self, name: str) -> str | None:
        """Return the value of a parameter, or None. Raises: QueryInvalid: it has several values."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(set(values)) > 1:
            msg = f"the query has {len(values)} values for {quote(name)}; expected one"
            raise QueryInvalid(msg)
        return values[0]

    def page_size(self) -> int:
        """Return `n` limited to MAX_PAGE, or MAX_PAGE without `n`. Raises: QueryInvalid: `n` is not a number."""
        text = self.value("n")
        if text is None:
            return MAX_PAGE
        if not (text.isascii() and text.isdigit()):
            msg = f"n is {quote(text)}; expected a number of items, such as 100"
            raise QueryInvalid(msg)
        return MAX_PAGE if len(text.lstrip("0")) > _MAX_DIGITS else min(int(text), MAX_PAGE)


def link_next(path: str, parameters: Mapping[str, str]) -> bytes:
    """Return a Link header (RFC 8288) to the next page: relative, with percent-encoded values."""
    query = "&".join(f"{name}={percent_encode(value, safe='')}" for name, value in parameters.items())
    return f'<{path}?{query}>; rel="next"'.encode("ascii")


def _decode(raw: bytes) -> str:
    try:
        text = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError as error:
        msg = "the query is not UTF-8 text"
        raise QueryInvalid(msg) from error
    if not text.isprintable():
        msg = f"the query has a control character in {quote(text)}"
        raise QueryInvalid(msg)
    return text
