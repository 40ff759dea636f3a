"""The part of a URL after the question mark: read strictly, once, and only where a route has one.

Rules kept here: escapes are decoded exactly once and must be UTF-8 without control characters; a parameter
that may stand once is refused when it stands there with two values; unknown parameters are ignored, as the
spec's extensions need. `+` is a plus, as in `application/vnd.example+json`: no value we take has a space.
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
"""What `n` is clamped to, and how many items a page has that asks for no number."""

_MAX_DIGITS: Final = 18


class QueryInvalid(Invalid):
    """A query that can't be read, or a parameter in it that can't be right."""


class Query:
    """The parameters of one request."""

    __slots__ = ("_values",)

    def __init__(self, query_string: bytes) -> None:
        """QueryInvalid, UriTooLong."""
        self._values: dict[str, list[str]] = {}
        if not query_string:
            return
        if len(query_string) > MAX_QUERY_BYTES:
            msg = f"the query is {len(query_string)} bytes long; at most {MAX_QUERY_BYTES} are read"
            raise UriTooLong(msg)
        for pair in query_string.split(b"&"):
            name, _, value = pair.partition(b"=")
            if pair:
                self._values.setdefault(_decode(name), []).append(_decode(value))

    def all(self, name: str) -> list[str]:
        """Every value of a parameter, in order."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """The value of a parameter, None without it; QueryInvalid when it stands there with several values."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(set(values)) > 1:
            msg = f"the query has {len(values)} values for {quote(name)}; expected one"
            raise QueryInvalid(msg)
        return values[0]

    def page_size(self) -> int:
        """`n`, clamped to MAX_PAGE, which also stands where there is none; QueryInvalid unless it is a number."""
        text = self.one("n")
        if text is None:
            return MAX_PAGE
        if not (text.isascii() and text.isdigit()):
            msg = f"n is {quote(text)}; expected how many items a page may have, such as 100"
            raise QueryInvalid(msg)
        return MAX_PAGE if len(text.lstrip("0")) > _MAX_DIGITS else min(int(text), MAX_PAGE)


def link_next(path: str, parameters: Mapping[str, str]) -> bytes:
    """The value of a Link header (RFC 8288) to the page that follows: relative, every value percent-encoded."""
    query = "&".join(f"{name}={percent_encode(value, safe='')}" for name, value in parameters.items())
    return f'<{path}?{query}>; rel="next"'.encode("ascii")


def _decode(raw: bytes) -> str:
    try:
        text = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError as error:
        msg = "the query holds bytes that are no UTF-8 text"
        raise QueryInvalid(msg) from error
    if not text.isprintable():
        msg = f"the query holds a control character in {quote(text)}"
        raise QueryInvalid(msg)
    return text
