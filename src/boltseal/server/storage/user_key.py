"""The key of the database's users, in `<data>.keys/users.key` (mode 0600): encrypts password hashes, authenticates API tokens.

The hashes are in the database so that several servers share them; the key is not, so that a database or a backup alone gives
no hash to try passwords against, and an account that can write only rows can't make a user. Encrypted with AES-256-GCM; the
user's name is authenticated with it, so a row can't be given to another user. The code of an API token is made from the token and
all that gives it rights, so neither can an account that can write only rows make a token, or give one another owner or scope.

Trusted: accounts that can read the file. If it is compromised together with the database, the attacker can try passwords
against the hashes, and with the right to write rows log in as any user.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from boltseal.errors import Unavailable, quote
from boltseal.files.atomic_files import Disk, locked, write_file

KEY_NAME: Final = "users.key"
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FOR_TOKENS: Final = b"boltseal API tokens v1"
"""From this text and the key another key is made, so that the one key is not used for two purposes."""
_ENCRYPTED = re.compile(r"[A-Za-z0-9+/]{118}==")
"""Nonce, 60 characters of a bcrypt hash, and a tag of 16 bytes, in base64."""


class UserKeyUnreadable(Unavailable):
    """The key is missing, damaged, or another one than the rows were encrypted with, so no login is accepted."""


class UserKey:
    """The key of one store, read once. Another process creates it before it writes the first row."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / KEY_NAME
        self._key: bytes | None = None

    def encrypt(self, name: str, password_hash: bytes, *, may_create: bool = True) -> str:
        """Return a user's hash for the database.

        `may_create`: create the key where there is none; not while the database has users, who could not log in with it.

        Raises: UserKeyUnreadable.
        """
        key = self._read()
        if key is None and not may_create:
            raise UserKeyUnreadable(
                f"{self.path.parent.name}/{KEY_NAME} is missing, and with a new key the users of the database can't log in: copy "
                "the folder of keys beside the data; if it is lost, remove these users with `boltseal admin user remove NAME`, "
                "then add them again"
            )
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = AESGCM(key or self._create())
        return b64encode(nonce + cipher.encrypt(nonce, password_hash, name.encode())).decode("ascii")

    def decrypt(self, name: str, encrypted: str) -> bytes:
        """Return the hash of a user's row. Raises: UserKeyUnreadable."""
        key = self._read()
        if key is None:
            raise UserKeyUnreadable(
                f"{self.path.parent.name}/{KEY_NAME} is missing, so users can't log in: copy the folder of keys beside the data"
            )
        try:
            raw = b64decode(encrypted, validate=True)
            return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise UserKeyUnreadable(
                f"the password of user {quote(name)} was not encrypted with {self.path.parent.name}/{KEY_NAME}: copy the "
                "folder of keys that belongs to the data; if it is lost, remove the user with `boltseal admin user remove NAME` "
                "and add it again"
            ) from error

    def token_code(self, parts: Sequence[str], *, may_create: bool = False) -> str:
        """Return the message authentication code (HMAC-SHA-256, hex) of an API token and of what gives it rights.

        `may_create`: create the key where there is none. Raises: UserKeyUnreadable.
        """
        key = self._read()
        if key is None and not may_create:
            raise UserKeyUnreadable(
                f"{self.path.parent.name}/{KEY_NAME} is missing, so no API token is accepted: copy the folder of keys beside the data"
            )
        for_tokens = hmac.digest(key or self._create(), _FOR_TOKENS, hashlib.sha256)
        hasher = hmac.new(for_tokens, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode()
            hasher.update(len(raw).to_bytes(4, "big"))
            hasher.update(raw)
        return hasher.hexdigest()

    def _read(self) -> bytes | None:
        if self._key is None:
            try:
                raw = b64decode(self.path.read_bytes().strip(), validate=True)
            except FileNotFoundError:
                return None
            except (OSError, ValueError) as error:
                raise UserKeyUnreadable(f"{self.path.parent.name}/{KEY_NAME} can't be read") from error
            if len(raw) != KEY_BYTES:
                raise UserKeyUnreadable(f"{self.path.parent.name}/{KEY_NAME} is not a key of {KEY_BYTES} bytes")
            self._key = raw
        return self._key

    def _create(self) -> bytes:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(f"{self.path}.lock", 0o600):
                key = self._read()
                if key is None:
                    key = secrets.token_bytes(KEY_BYTES)
                    write_file(Disk(), self.path, b64encode(key) + b"\n", 0o600)
        except OSError as error:
            raise UserKeyUnreadable(f"{self.path} can't be written: {error.strerror}") from error
        self._key = key
        return key


def looks_encrypted(text: str) -> bool:
    """Return whether a text has the form that `encrypt` returns."""
    return _ENCRYPTED.fullmatch(text) is not None
