"""Signed notes: a text followed by its signatures (C2SP signed-note, tlog-cosignature).

    <text, ending in a newline>
                                                       an empty line
    \u2014 <key name> base64(key ID of 4 bytes || signature)    one or more lines

A key is written `<name>+<key ID in hex>+base64(<type byte> || <public key>)` (`VerifierKey`), its private half
`PRIVATE+KEY+<name>+<key ID>+base64(<type byte> || <seed>)` (`SigningKey`). Two types are known: Ed25519 over the text
(01), and the timestamped Ed25519 cosignature of a witness (04), which signs a header and a time before the text.

Nothing in a note is trusted before `open_note` has verified it with keys from another source. Signatures by unknown keys
are ignored. One invalid signature by a known key makes the whole note invalid.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from boltseal.errors import Invalid, quote
from boltseal.loading import deferred
from boltseal.oci.base64_text import decode_base64

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives.asymmetric import ed25519
else:  # a command that meets no signature starts without loading cryptography
    exceptions = deferred("cryptography.exceptions")
    ed25519 = deferred("cryptography.hazmat.primitives.asymmetric.ed25519")

ED25519: Final = 1
COSIGNATURE: Final = 4

MAX_NOTE_BYTES: Final = 1_000_000
MAX_SIGNATURES: Final = 100

_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
_DASH: Final = "\u2014 "
_is_key = re.compile(r"(?P<name>[^+]+)\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/=]+)").fullmatch
_control = re.compile(r"[\x00-\x09\x0b-\x1f]").search


class NoteInvalid(Invalid):
    """The text is no signed note, or one without a valid signature of a trusted key."""


class KeyInvalid(Invalid):
    """The text is no key, or one whose ID does not match its name and public key."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, not verified: the claimed key name and key ID, and the signature."""

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """Return the line of a note, newline included."""
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.value).decode()}\n"


@dataclass(frozen=True, slots=True)
class Verified:
    """A valid signature. `time_s`: the time that a witness stated, in seconds since the epoch; None for other keys."""

    signature: Signature
    time_s: int | None = None


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a key: its name, its type (ED25519 or COSIGNATURE) and 32 bytes."""

    name: str
    type: int
    public: bytes

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise KeyInvalid(f"{quote(self.name)} is not a key name; expected one without spaces and plus")
        if self.type not in (ED25519, COSIGNATURE) or len(self.public) != _KEY_BYTES:
            raise KeyInvalid(
                f"key of type {self.type}, {len(self.public)} bytes; expected Ed25519 (type 1 or 4), 32 bytes"
            )

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Parse `name+id+key`. Raises: KeyInvalid when it is not a key, or the ID is another key's."""
        name, key_id, key = _parse_key(text)
        parsed = cls(name, key[0], key[1:])
        if parsed.key_id != key_id:
            raise KeyInvalid(f"key ID {key_id.hex()} is not this key's, which is {parsed.key_id.hex()}")
        return parsed

    @property
    def key_id(self) -> bytes:
        """Four bytes that distinguish keys of one name. They are too short to identify a key that you trust."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:_ID_BYTES]

    def verify(self, text: str, signature: Signature) -> Verified:
        """Verify one of this key's signatures of a text. Raises: NoteInvalid when it is not valid."""
        message, value, time_s = text.encode(), signature.value, None
        if self.type == COSIGNATURE:
            time_s = int.from_bytes(value[:_TIME_BYTES])
            message, value = _cosigned(text, time_s), value[_TIME_BYTES:]
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.public).verify(value, message)
        except exceptions.InvalidSignature as error:
            raise NoteInvalid(
                f"the signature by {quote(self.name)} does not hold: altered, or by another key"
            ) from error
        return Verified(signature, time_s)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(bytes([self.type]) + self.public).decode()}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private half of a key. `seed`: 32 random bytes, from a cryptographic source (this package is pure and has none)."""

    name: str
    seed: bytes = field(repr=False)
    type: int = ED25519

    def __post_init__(self) -> None:
        if len(self.seed) != _KEY_BYTES:
            raise KeyInvalid(f"a seed of {len(self.seed)} bytes; expected {_KEY_BYTES}")
        _ = self.verifier  # checks name and type

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Parse `PRIVATE+KEY+name+id+seed`. Raises: KeyInvalid, whose message shows no part of the key but its name."""
        if not text.startswith("PRIVATE+KEY+"):
            raise KeyInvalid("not a private key: it does not begin with PRIVATE+KEY+")
        name, key_id, key = _parse_key(text.removeprefix("PRIVATE+KEY+"))
        parsed = cls(name, key[1:], key[0])
        if parsed.verifier.key_id != key_id:
            raise KeyInvalid(f"private key of {quote(name)}: its ID does not belong to it")
        return parsed

    @property
    def verifier(self) -> VerifierKey:
        """The public half of the key."""
        return VerifierKey(self.name, self.type, self._private().public_key().public_bytes_raw())

    def private_text(self) -> str:
        """Return the key as its file contains it: a secret."""
        seed = b64encode(bytes([self.type]) + self.seed).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{seed}"

    def sign(self, text: str, time_s: int = 0) -> Signature:
        """Sign a text. `time_s`: seconds since the epoch, part of cosignatures only."""
        if self.type == COSIGNATURE:
            value = time_s.to_bytes(_TIME_BYTES) + self._private().sign(_cosigned(text, time_s))
        else:
            value = self._private().sign(text.encode())
        return Signature(self.name, self.verifier.key_id, value)

    def _private(self) -> ed25519.Ed25519PrivateKey:
        return ed25519.Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read. No signature is verified."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note with at least one valid signature by a known key, and none that is invalid."""

    text: str
    verified: tuple[Verified, ...]

    def by(self, key: VerifierKey) -> Verified | None:
        """Return this key's verified signature, or None."""
        wanted = (key.name, key.key_id)
        return next((each for each in self.verified if (each.signature.name, each.signature.key_id) == wanted), None)


def format_note(text: str, signatures: Sequence[Signature]) -> bytes:
    """Format a note as bytes. Raises: NoteInvalid when a note can't contain the text."""
    _check_text(text)
    return (text + "\n" + "".join(signature.line() for signature in signatures)).encode()


def parse_note_unverified(raw: bytes) -> Note:
    """Parse a note without any check of its signatures. Raises: NoteInvalid when it is not a note."""
    if len(raw) > MAX_NOTE_BYTES:
        raise NoteInvalid(f"a note of {len(raw)} bytes; at most {MAX_NOTE_BYTES} are read")
    try:
        whole = raw.decode()
    except UnicodeDecodeError as error:
        raise NoteInvalid("not a signed note: it is not UTF-8") from error
    head, blank, tail = whole.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise NoteInvalid("not a signed note: there is no empty line with signatures below it")
    text = head + "\n"
    _check_text(text)
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteInvalid(f"a note with {len(lines)} signatures; at most {MAX_SIGNATURES} are read")
    return Note(text, tuple(_parse_signature(line) for line in lines))


def open_note(raw: bytes, keys: Iterable[VerifierKey]) -> OpenedNote:
    """Read a note and verify it. Raises: NoteInvalid at the first step that fails.

    1. It is a note.
    2. Each signature with the name and key ID of a known key is valid.
    3. There is at least one such signature.
    """
    note = parse_note_unverified(raw)
    known = {(key.name, key.key_id): key for key in keys}
    verified = tuple(
        known[signature.name, signature.key_id].verify(note.text, signature)
        for signature in note.signatures
        if (signature.name, signature.key_id) in known
    )
    if not verified:
        names = ", ".join(sorted({quote(signature.name, 40) for signature in note.signatures})[:3])
        raise NoteInvalid(f"none of the trusted keys signed this note; it is signed by {names}")
    return OpenedNote(note.text, verified)


def cosigned_at_unverified(cosignature: Signature) -> int:
    """Return the time that a cosignature states, in seconds since the epoch. The signature is not verified."""
    return int.from_bytes(cosignature.value[:_TIME_BYTES])


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    value = decode_base64(encoded)
    if not line.startswith(_DASH) or not space or not _is_name(name) or value is None or len(value) <= _ID_BYTES:
        raise NoteInvalid(f"{quote(line)} is not a signature line")
    return Signature(name, value[:_ID_BYTES], value[_ID_BYTES:])


def _parse_key(text: str) -> tuple[str, bytes, bytes]:
    match = _is_key(text)
    key = decode_base64(match["key"]) if match is not None else None
    if match is None or not key:
        raise KeyInvalid("not a key; expected name+8 hex digits+base64, as `boltseal ledger key` prints it")
    return match["name"], bytes.fromhex(match["id"]), key


def _check_text(text: str) -> None:
    if not text.endswith("\n") or _control(text):
        raise NoteInvalid("not a note: its text must end in a newline and have no other control character")


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(character.isspace() for character in name) and not _control(name)


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()
