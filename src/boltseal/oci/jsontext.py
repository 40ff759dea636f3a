"""Decode untrusted JSON into a type, with one kind of error for all invalid input. Pure.

msgspec raises RecursionError, not its own error, for nesting deeper than Python's recursion limit. `decode` converts that, so
that callers can treat such an answer as any other invalid one.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

DigestText = Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]
"""A whole digest in a document, for types that a JSON Schema is made from."""
TimeText = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")]
"""A time in UTC in a document, as ISO 8601."""


def decode(raw: bytes | bytearray | msgspec.Raw, kind: type[T]) -> T:
    """Decode JSON into a value of type `kind`. Raises: msgspec.DecodeError, which is a ValueError."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
