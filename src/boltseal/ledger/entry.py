"""Encode and parse ledger entries: one line of canonical JSON for each event of a tag.

    {"v":1,"kind":"tag.created","time":"2026-11-24T08:29:01.123456Z","registry":"reg.example",
     "repository":"shop/app","tag":"1.4.2","digest":"sha256:...","type":"application/vnd...","size":1234,
     "was":"","previous":-1,"actor":"ci","reason":"","salt":"<32 hex>","extra":{}}\\n

(on one line). Entries are hashed, so the encoding is canonical: every key present and in this order, no white space,
UTF-8 without needless escapes, `extra` sorted by key, one newline at the end, at most 65,535 bytes (an entry bundle's
length field has two bytes). `parse` accepts exactly what `encode` emits: it encodes the parsed entry again and compares.

No text in an entry has control characters, line separators or direction marks, since people read a history in terminals
and must see the same text everywhere. The registry decides who may write which entry, and assigns the indices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import NameInvalid, Repository, Tag, TagInvalid

VERSION: Final = 1
MAX_ENTRY_BYTES: Final = 65_535
MAX_TIME_US: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999, the last that RFC 3339 can write."""

_MAX_INT = 2**63 - 1


class EntryInvalid(Invalid):
    """Bytes that `encode` never emits, or values that an entry can't have."""


class IndexedLine(NamedTuple):
    """The bytes of an entry, and its index in the log."""

    entry_index: int
    line: bytes


class EntryKind(StrEnum):
    """The event that an entry records. These are the kinds of version 1; an unknown kind is rejected."""

    LOG_STARTED = "log.started"
    RULES_CHANGED = "rules.changed"
    KEY_ROTATED = "key.rotated"
    KEY_ANNOUNCED = "key.announced"
    RECOVERED = "recovered"
    TAG_CREATED = "tag.created"
    TAG_MOVED = "tag.moved"
    TAG_DELETED = "tag.deleted"
    TAG_SEALED = "tag.sealed"
    TAG_UNSEALED = "tag.unsealed"
    TAG_RESTORED = "tag.restored"
    TAG_PURGED = "tag.purged"
    TAG_EXPIRED = "tag.expired"
    OBSERVED = "observed"
    HELD = "held"
    ACCEPTED = "accepted"
    BUILT = "built"
    REBUILD_REQUESTED = "rebuild.requested"
    RELEASED = "released"


OF_OBSERVATIONS: Final = frozenset({EntryKind.OBSERVED, EntryKind.HELD, EntryKind.ACCEPTED})
"""Kinds of entries in the log of observations, about tags of mirrored registries."""
OF_EVERY_LOG: Final = frozenset({EntryKind.LOG_STARTED, EntryKind.KEY_ROTATED, EntryKind.RECOVERED})
"""Kinds of entries about the log itself."""
CHANGES: Final = frozenset(kind for kind in EntryKind if kind.startswith("tag."))
"""Kinds of entries that change a tag."""
RECORDS: Final = frozenset({EntryKind.BUILT, EntryKind.REBUILD_REQUESTED, EntryKind.RELEASED})
"""Kinds of entries that record something about an image and change no tag."""
MODE_SEALED: Final = "sealed"
"""The `mode` in the extra of an entry after which the tag is sealed, or stays sealed."""
MODE_SETTLING: Final = "settling"
"""The `mode` in the extra of an entry about a tag that is not sealed yet, but will be at the time in `settles`."""
SETTLES: Final = "settles"
PLATFORM: Final = "platform"
"""Keys of such an entry's extra: when the tag is sealed, and the platform of its image, if that is known."""
RELEASE_PROJECT: Final = "project"
RELEASE_NUMBER: Final = "release"
RELEASE_HOST: Final = "host"
"""Keys of a `released` entry's extra: the project, the number of its release, and the host."""
_OF_A_TAG: Final = CHANGES - {EntryKind.TAG_DELETED, EntryKind.TAG_PURGED}
"""Kinds that always have a tag. A manifest without a tag can be deleted or purged by digest."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One ledger entry. A text that does not apply is "", `size` then 0 and `previous` -1.

    `time_us`: microseconds since the epoch. `registry`: the log's origin. `digest`, `type` (media type) and
    `size` (bytes): of the manifest that the tag resolves to after the event. `was`: the digest before it. `previous`: the index of
    the last entry of the same repository and tag. `salt`: 16 random bytes in hex, so that a private
    name can't be found by hashing guesses.
    """

    kind: EntryKind
    time_us: int
    registry: str
    repository: str = ""
    tag: str = ""
    digest: str = ""
    type: str = ""
    size: int = 0
    was: str = ""
    previous: int = -1
    actor: str = ""
    reason: str = ""
    salt: str
    extra: Mapping[str, str] = {}


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of the JSON line."""

    v: int
    kind: EntryKind
    time: str
    registry: str
    repository: str
    tag: str
    digest: str
    type: str
    size: int
    was: str
    previous: int
    actor: str
    reason: str
    salt: str
    extra: dict[str, str]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_is_registry = re.compile(r"[!-*,-~]{1,255}").fullmatch
_is_type = re.compile(r"[!-~]{0,255}").fullmatch
_is_salt = re.compile(r"[0-9a-f]{32}").fullmatch
_is_digest = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}").fullmatch
_is_time = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z").fullmatch
_USUAL_KEYS: Final = frozenset({"mode", "keep"})
_is_extra_key = re.compile(r"[a-z][a-z0-9_.-]{0,63}").fullmatch
# C0, DEL, C1, line and paragraph separators, direction marks and overrides, surrogates
_unprintable = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]").search


def encode(entry: Entry) -> bytes:
    """Encode an entry as bytes that end in a newline. Raises: EntryInvalid for values that an entry can't have."""
    _check(entry)
    line = _Line(
        VERSION,
        entry.kind,
        format_time(entry.time_us),
        entry.registry,
        str(entry.repository),
        str(entry.tag),
        entry.digest,
        entry.type,
        entry.size,
        entry.was,
        entry.previous,
        entry.actor,
        entry.reason,
        entry.salt,
        dict(sorted(entry.extra.items())),
    )
    raw = _encoder.encode(line) + b"\n"
    if len(raw) > MAX_ENTRY_BYTES:
        raise EntryInvalid(f"an entry of {len(raw)} bytes; at most {MAX_ENTRY_BYTES} fit, so shorten the reason")
    return raw


def parse(raw: bytes) -> Entry:
    """Read one entry; EntryInvalid for every byte sequence that `encode` does not emit.

    What was read is written again and compared: its time has only one spelling, its `extra` only one order, and the
    encoder has one spelling for the rest. A million of these are read at a time (`admin fsck`, `monitor`).
    """
    if len(raw) > MAX_ENTRY_BYTES:
        raise EntryInvalid(f"an entry of {len(raw)} bytes; at most {MAX_ENTRY_BYTES} are allowed")
    try:
        line = _decoder.decode(raw)
    except ValueError as error:  # of msgspec, or of the UTF-8 decoder below it
        raise EntryInvalid(f"not an entry: {error}") from error
    if line.v != VERSION:
        raise EntryInvalid(f"an entry of version {line.v}; this version reads {VERSION}")
    entry = Entry(
        kind=line.kind,
        time_us=parse_time(line.time),
        registry=line.registry,
        repository=line.repository,
        tag=line.tag,
        digest=line.digest,
        type=line.type,
        size=line.size,
        was=line.was,
        previous=line.previous,
        actor=line.actor,
        reason=line.reason,
        salt=line.salt,
        extra=line.extra,
    )
    _check(entry)
    if _encoder.encode(line) + b"\n" != raw or list(line.extra) != sorted(line.extra):
        raise EntryInvalid("not an entry: the same values have another spelling (order, white space, escapes)")
    return entry


def _check(entry: Entry) -> None:
    if not _is_registry(entry.registry):
        raise EntryInvalid(f"registry is {quote(entry.registry)}; expected printable ASCII without space and plus")
    if not _is_salt(entry.salt):
        raise EntryInvalid("salt: expected 32 lower-case hex digits")
    if not -1 <= entry.previous <= _MAX_INT:
        raise EntryInvalid(f"previous is {entry.previous}; expected an index, or -1")
    _check_name(entry)
    _check_manifest(entry)
    if not _is_plain(entry.actor + entry.reason):
        _check_text("actor", entry.actor)
        _check_text("reason", entry.reason)
    for key, text in entry.extra.items():
        if key not in _USUAL_KEYS and not _is_extra_key(key):
            raise EntryInvalid(f"extra has the key {quote(key)}; expected a-z, then a-z 0-9 _ . -, at most 64")
        if not _is_plain(text):
            _check_text(key, text)


def _check_name(entry: Entry) -> None:
    if not entry.repository:
        if entry.tag or entry.kind in CHANGES:
            raise EntryInvalid(f"{entry.kind} of tag {quote(entry.tag)} names no repository")
        return
    if not entry.tag and (entry.kind in _OF_A_TAG or (entry.kind in CHANGES and not entry.digest)):
        raise EntryInvalid(f"{entry.kind} of repository {quote(entry.repository)} names no tag")
    try:
        Repository(entry.repository)
        if entry.tag:
            Tag(entry.tag)
    except (NameInvalid, TagInvalid) as error:
        raise EntryInvalid(error.message) from error


def _check_manifest(entry: Entry) -> None:
    for key, digest in (("digest", entry.digest), ("was", entry.was)):
        if digest and _is_digest(digest) is None:
            try:
                Digest.parse(digest)
            except DigestInvalid as error:
                raise EntryInvalid(f"{key}: {error.message}") from error
    if not _is_type(entry.type):
        raise EntryInvalid(f"type is {quote(entry.type)}; expected a media type")
    if not 0 <= entry.size <= _MAX_INT:
        raise EntryInvalid(f"size is {entry.size}; expected bytes, 0 to 2^63-1")


def _is_plain(text: str) -> bool:
    """Return whether a text needs no closer check of its characters, as almost every text."""
    return text.isascii() and text.isprintable()


def _check_text(key: str, text: str) -> None:
    if _unprintable(text):
        raise EntryInvalid(
            f"{key} is {quote(text)}; control characters, line breaks and direction marks are not allowed"
        )


def format_time(time_us: int) -> str:
    """Format a time such as 2026-11-24T08:29:01.123456Z. Raises: EntryInvalid before 1970 and after 9999."""
    if not 0 <= time_us <= MAX_TIME_US:
        raise EntryInvalid(f"time is {time_us} us; expected 1970 to 9999")
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")[:26] + "Z"


def parse_time(text: str) -> int:
    """Parse the output of `format_time` to microseconds since the epoch. Raises: EntryInvalid for any other text."""
    try:
        if _is_time(text) is None:
            raise ValueError
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise EntryInvalid(f"time is {quote(text)}; expected such as 2026-11-24T08:29:01.123456Z") from error
    since = moment - _EPOCH
    if since.days < 0:
        raise EntryInvalid(f"time is {quote(text)}; expected 1970 to 9999")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
