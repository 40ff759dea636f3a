"""The file of one release: its record, its contents, and their SHA-256 at the end. Pure.

    boltseal release 1
    {"revision": 3, "release": {...}, "contents": {...}}
    sha256:...

A file whose hash does not match was left incomplete by a crash, and is ignored. `revision` grows with each rewrite, so that of two copies
of a release the newer one is known. `contents` is null once the release is too old to be restored.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from boltseal.deploy.releases import FORMAT, Release, ReleaseContents, ReleaseUnreadable, check_release
from boltseal.errors import quote

MAX_FILE_BYTES: Final = 128 * 1024 * 1024
_MAGIC: Final = b"boltseal release "


class TornFile(ReleaseUnreadable):
    """The file of a release is incomplete or changed: its hash does not match."""


class _Contents(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):  # earlier versions know fewer fields
    compose: bytes
    environment: bytes
    files: dict[str, bytes]
    lock: bytes | None
    outside: tuple[str, ...] = ()
    modes: dict[str, int] = {}
    owners: dict[str, tuple[int, int]] = {}


class StoredRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release with its contents, None once they are dropped. `revision`: how often it was written."""

    revision: int
    release: Release
    contents: ReleaseContents | None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    revision: int
    release: Release
    contents: _Contents | None


def format_stored(stored: StoredRelease) -> bytes:
    """Return the file of a release."""
    found = stored.contents
    contents = (
        None
        if found is None
        else _Contents(
            found.compose,
            found.environment,
            dict(found.files),
            found.lock,
            found.outside,
            dict(found.modes),
            dict(found.owners),
        )
    )
    body = _MAGIC + f"{FORMAT}\n".encode()
    body += msgspec.json.encode(_Document(stored.revision, stored.release, contents)) + b"\n"
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def parse_stored(raw: bytes) -> StoredRelease:
    """Parse the file of a release: 1. its hash, 2. its format, 3. its fields.

    Raises: TornFile; ReleaseUnreadable.
    """
    body, mark, hex_ = raw.rpartition(b"\nsha256:")
    body += b"\n"
    if not mark or hex_ != hashlib.sha256(body).hexdigest().encode() + b"\n":  # 1
        raise TornFile("the file of the release is incomplete: its SHA-256 does not fit")
    first, _, rest = body.partition(b"\n")
    if first != _MAGIC + f"{FORMAT}".encode():  # 2
        raise ReleaseUnreadable(
            f"unknown format of the release (got {quote(first[:40].decode('latin-1'))}, expected boltseal release {FORMAT}); "
            "use a newer boltseal"
        )
    try:
        found = msgspec.json.decode(rest, type=_Document)  # 3
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReleaseUnreadable(f"could not parse the release: {quote(str(error), 200)[1:-1]}") from error
    check_release(found.release)
    contents = None
    if found.contents is not None:
        each = found.contents
        contents = ReleaseContents(
            each.compose, each.environment, each.files, each.lock, each.outside, each.modes, each.owners
        )
    return StoredRelease(revision=found.revision, release=found.release, contents=contents)
