"""The keys that sign tokens, in `<data>.keys/token.json` (mode 0600), beside the data folder.

The first key signs. The others were rotated out and still verify what they signed (`server.auth.tokens`). The file is read
again when it changed, so a rotation reaches every worker without a restart.

Trusted: accounts that can read the file. If it is compromised, the attacker can act as any user of this registry until five
minutes after the next rotation.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk, locked, write_file

SEED_BYTES: Final = 32
KEPT: Final = 3


class KeysUnreadable(Unavailable):
    """The keys can't be read or written, so no token can be issued or verified."""


@dataclass(frozen=True, slots=True)
class StoredSigningKey:
    """An Ed25519 seed. `id` names it in tokens; `since_us`: when it began to sign, microseconds since the epoch."""

    id: str
    seed: bytes
    since_us: int

    def __repr__(self) -> str:
        return f"SigningKey({self.id})"


class _Stored(msgspec.Struct):
    id: str
    seed: str
    since_us: int


class KeyFile:
    """The key file. `current` costs one stat while the file does not change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: tuple[StoredSigningKey, ...] = ()
        self._version = (0, 0)

    def current(self, now_us: int) -> tuple[StoredSigningKey, ...]:
        """Return the keys, the signing one first. Creates a key when there is no file. Raises: KeysUnreadable."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return self.rotate(now_us, only_if_missing=True)
        except OSError as error:
            raise KeysUnreadable(f"the token keys can't be read: {error.strerror}") from error
        version = (status.st_ino, status.st_mtime_ns)
        if version != self._version:
            self._held, self._version = self._read(), version
        return self._held

    def rotate(self, now_us: int, *, only_if_missing: bool = False) -> tuple[StoredSigningKey, ...]:
        """Add a new signing key; the previous ones still verify. Raises: KeysUnreadable."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(f"{self.path}.lock", 0o600):
                held = self._read() if self.path.exists() else ()
                if held and only_if_missing:
                    return held
                keys = (StoredSigningKey(secrets.token_hex(8), secrets.token_bytes(SEED_BYTES), now_us), *held)[:KEPT]
                stored = [_Stored(key.id, b64encode(key.seed).decode("ascii"), key.since_us) for key in keys]
                write_file(Disk(), self.path, msgspec.json.encode(stored))
                self.path.chmod(0o600)
                return keys
        except OSError as error:
            raise KeysUnreadable(f"the token keys {self.path} can't be written: {error.strerror}") from error

    def _read(self) -> tuple[StoredSigningKey, ...]:
        try:
            stored = msgspec.json.decode(self.path.read_bytes(), type=list[_Stored])
            keys = tuple(StoredSigningKey(key.id, b64decode(key.seed, validate=True), key.since_us) for key in stored)
        except (OSError, ValueError) as error:
            raise KeysUnreadable("the token keys can't be read; move the file away and start again") from error
        if not keys or any(len(key.seed) != SEED_BYTES for key in keys):
            raise KeysUnreadable("the token keys can't be read; move the file away and start again")
        return keys
