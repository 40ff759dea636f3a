"""Decode JSON documents of stores into typed values.

A document has a size limit and a limit of values, and is decoded into the few relevant keys; other keys cost no memory.
A document that does not fit raises StoreMalformed.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from boltseal.engines.json_fields import ambiguous_field
from boltseal.engines.safe_open import StoreMalformed
from boltseal.errors import quote
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import OCI_INDEX, OCI_MANIFEST

T = TypeVar("T")

MAX_LIST_BYTES: Final = 64 * 1024 * 1024
"""For images.json, layers.json, repositories.json: one line per image or layer of a host."""
MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
"""For a manifest or config."""
MAX_VALUES: Final = 500_000
"""Each value of a document takes about a hundred bytes of memory, even `{}`."""
MAX_IMAGES: Final = 20_000
"""Images of one store, and containers of one store."""
MAX_WORD_BYTES: Final = 4096
"""For a file with one digest, ID or name."""


def decoded(raw: bytes, shape: type[T], what: str) -> T:
    """Decode a document as a value of `shape`.

    Raises: StoreMalformed: it does not fit, or an engine would read other values of it (`json_fields`).
    """
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:  # each value but the first follows one of these
        raise StoreMalformed(f"{what} has more than {MAX_VALUES} values, which no engine writes")
    try:
        value = msgspec.json.decode(raw, type=shape)
        field = ambiguous_field(raw, shape)
    except RecursionError as error:
        raise StoreMalformed(f"{what} is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreMalformed(f"{what} has an unexpected form: {quote(str(error), 200)[1:-1]}") from error
    if field:
        raise StoreMalformed(
            f"{what} has the field {quote(field)} twice or in another case, which engines read otherwise"
        )
    return value


class _Kind(msgspec.Struct):
    media_type: str | None = msgspec.field(default=None, name="mediaType")
    manifests: msgspec.Raw = msgspec.Raw(b"")


def read_manifest(raw: bytes, media_type: str | None = None) -> Manifest:
    """Parse a manifest or index of a store, which lacks the media type that a registry sends with it.

    Raises: ManifestInvalid; StoreMalformed: if it is not JSON.
    """
    kind = decoded(raw, _Kind, "a manifest")
    guess = OCI_INDEX if bytes(kind.manifests) not in (b"", b"null") else OCI_MANIFEST
    return parse_manifest(raw, kind.media_type or media_type or guess)


def digest(text: str | bytes, what: str) -> Digest:
    """Parse a digest of a store. Raises: StoreMalformed."""
    word = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    try:
        return Digest.parse(word.strip())
    except DigestInvalid as error:
        raise StoreMalformed(f"{what}: {error.message}") from error


def word(raw: bytes, what: str) -> str:
    """Parse an ASCII identifier, such as a folder's ID; it can't be a path. Raises: StoreMalformed."""
    try:
        text = raw.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise StoreMalformed(f"{what} is not ASCII") from error
    if not text or text in (".", "..") or not all(c.isalnum() or c in "-_." for c in text):
        raise StoreMalformed(f"{what} is {quote(text)}; expected one word")
    return text
