"""Decode untrusted JSON into a type, with one kind of error for all invalid input. Pure.

msgspec raises RecursionError, not its own error, for nesting deeper than Python's recursion limit. `decode` converts that, so
that callers can treat such an answer as any other invalid one.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode(raw: bytes, kind: type[T]) -> T:
    """Decode JSON into a value of type `kind`. Raises: msgspec.DecodeError, which is a ValueError."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
