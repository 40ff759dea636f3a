"""The JSON that stores keep, as typed values or not at all.

A document has a stated size and a stated number of values, and is decoded into the few keys that matter; whatever else it
says costs no memory. What does not fit is StoreMalformed, with one sentence.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from boltseal.engines.safe_open import StoreMalformed
from boltseal.errors import quote
from boltseal.oci.digest import Digest, DigestInvalid

T = TypeVar("T")

MAX_LIST_BYTES: Final = 64 * 1024 * 1024
"""images.json, layers.json, repositories.json: one line for each image or layer of a host."""
MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
"""A manifest or a config."""
MAX_VALUES: Final = 500_000
"""Each value of a document takes some hundred bytes of memory, be it as short as `{}`."""
MAX_IMAGES: Final = 20_000
"""Of one store, and as many containers."""
MAX_WORD_BYTES: Final = 4096
"""A file that holds one digest, id or name."""


def decoded(raw: bytes, shape: type[T], what: str) -> T:
    """A document as a value of `shape`. StoreMalformed."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:  # before each value but the first stands one of these
        raise StoreMalformed(f"{what} holds more than {MAX_VALUES} values; no engine writes as many")
    try:
        return msgspec.json.decode(raw, type=shape)
    except RecursionError as error:
        raise StoreMalformed(f"{what} is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreMalformed(f"{what} is not what an engine writes: {quote(str(error), 200)[1:-1]}") from error


def digest(text: str | bytes, what: str) -> Digest:
    """A digest that a store names. StoreMalformed."""
    word = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    try:
        return Digest.parse(word.strip())
    except DigestInvalid as error:
        raise StoreMalformed(f"{what}: {error.message}") from error


def word(raw: bytes, what: str) -> str:
    """One word of ASCII, such as a folder's id: never a path. StoreMalformed."""
    try:
        text = raw.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise StoreMalformed(f"{what} is not ASCII") from error
    if not text or text in (".", "..") or not all(c.isalnum() or c in "-_." for c in text):
        raise StoreMalformed(f"{what} is {quote(text)}; expected one word")
    return text
