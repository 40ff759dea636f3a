"""Parse JSON that a signer wrote, so that every reader sees the same values in it. Pure."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from boltseal.errors import quote
from boltseal.signatures.errors import SignatureInvalid

T = TypeVar("T")


MAX_UNSIGNED_MARKS: Final = 10_000
"""Brackets, braces, commas and colons of a document that nothing has verified yet. A bundle has some hundred."""


def parse_unsigned(raw: bytes, kind: type[T], what: str, max_bytes: int) -> T:
    """Parse a document whose signature can be verified only afterwards, so any client may have written it.

    Before all else it has at most MAX_UNSIGNED_MARKS marks of structure: 16 MiB of `{},{},` would need 500 MB of memory.

    Raises: SignatureInvalid, as `parse_strict` too.
    """
    if len(raw) <= max_bytes and sum(raw.count(mark) for mark in (b"{", b"[", b",", b":")) > MAX_UNSIGNED_MARKS:
        raise SignatureInvalid(f"{what} has more than {MAX_UNSIGNED_MARKS} values; a signature has some hundred")
    return parse_strict(raw, kind, what, max_bytes)


def parse_strict(raw: bytes, kind: type[T], what: str, max_bytes: int) -> T:
    """Parse one JSON object into a value of type `kind`. `what` names the document in errors.

    1. It has at most `max_bytes` bytes.
    2. It is UTF-8 and one JSON object, with nothing but white space after it.
    3. No object in it has a key twice, and there are no numbers such as NaN.
    4. Its values have the types of `kind`. Unknown keys are ignored.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    if len(raw) > max_bytes:
        raise SignatureInvalid(f"{what} has {len(raw)} bytes; at most {max_bytes} are read")
    # 2 and 3
    try:
        document = _DECODER.decode(raw.decode())
    except RecursionError as error:
        raise SignatureInvalid(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise SignatureInvalid(f"{what} is not JSON: {quote(str(error), 120)[1:-1]}") from error
    # 4
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise SignatureInvalid(f"{what} is not valid: {quote(str(error).replace('`', ''), 160)[1:-1]}") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        raise ValueError("an object has a key twice, so that readers would disagree on it")
    return known


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
