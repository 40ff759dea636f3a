"""JSON that strangers wrote, read into a type: whatever is wrong with it is one kind of error. Pure.

A decoder ends in another way than by its own error on brackets within brackets, deeper than Python can call itself. Such an
answer must be no more than that: an answer that can't be read.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode(raw: bytes, kind: type[T]) -> T:
    """The value. msgspec.DecodeError, which is a ValueError."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
