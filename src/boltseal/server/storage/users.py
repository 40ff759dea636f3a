"""Users and their password hashes: a users' file (htpasswd, bcrypt only, read when it changed), and rows of the database.

The file has one line for each user, `name:$2b$...`, as Apache's `htpasswd -B` and other registries write it. It is outside
the data folder (`<data>.keys/htpasswd`) and is replaced as a whole. From the next request on the server refuses a removed
user. A line that can't be read is an error, so that no user is silently dropped.

Trusted: accounts that can write the file. If it is compromised, the attacker has the rights of all users named in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from boltseal.errors import Invalid, NotFound, Unavailable, quote
from boltseal.files.atomic_files import Disk, locked, write_file
from boltseal.server.storage.metadata.protocol import AccountRow, ApiTokenRow
from boltseal.server.storage.user_key import UserKey, looks_encrypted

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?")
_HASH = re.compile(r"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_LINE = re.compile(f"({_NAME.pattern}):({_HASH.pattern})")

RESERVED: Final = frozenset({"anonymous", "boltseal"})
"""Actors in the ledger: a client without a login, and the server itself."""


class UsersInvalid(Unavailable):
    """The users' file can't be read, so no login is accepted."""


class UserNameInvalid(Invalid):
    """A name that no user can have."""


class UserUnknown(NotFound):
    """There is no such user."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person of an identity provider, identified for ever by `issuer` and `subject`. `groups`: at the last login."""

    issuer: str
    subject: str
    display_name: str
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class Users:
    """The users at one moment: bcrypt hashes by name. `version` differs between any two states of the file.

    Service accounts and `people` (by name) have an empty hash, which no password matches. `tokens`: the API tokens, by their IDs.
    """

    hashes: Mapping[str, bytes]
    version: tuple[int, int, int]
    tokens: Mapping[str, ApiTokenRow] = field(default_factory=dict)
    people: Mapping[str, Person] = field(default_factory=dict)

    def kind(self, name: str) -> Literal["user", "service", "person"]:
        """Return the kind of one of these users, as `boltseal admin user ls` shows it."""
        if name in self.people:
            return "person"
        return "user" if self.hashes[name] else "service"


NO_USERS: Final = Users({}, (0, 0, 0))


def parse_accounts(rows: Iterable[AccountRow], key: UserKey) -> Users:
    """Return the users of the database's rows.

    Raises:
        UsersInvalid: a row is not a user. It is not skipped, so that no user is silently dropped.
        UserKeyUnreadable: the key is missing or another one.
    """
    users: dict[str, bytes] = {}
    for row in rows:
        problem = account_problem(row)
        hashed = b"" if problem is not None else key.decrypt(row.name, row.encrypted_hash)
        if problem is None and not _HASH.fullmatch(hashed.decode("ascii", "replace")):
            problem = f"user {quote(row.name)} has no bcrypt hash"
        if problem is not None:
            raise UsersInvalid(f"the users of the database: {problem}")
        users[row.name] = hashed
    return Users(users, (0, 0, 0)) if users else NO_USERS


def account_problem(row: AccountRow) -> str | None:
    """Return what is wrong with a row as far as it shows without the key; None if nothing is."""
    try:
        check_user_name(row.name)
    except UserNameInvalid as error:
        return error.message
    if not looks_encrypted(row.encrypted_hash):
        return f"user {quote(row.name)} has no encrypted password hash"
    return None


def check_user_name(name: str) -> None:
    """Refuse a name that can't be written in the file, a grant, the ledger and messages. Raises: UserNameInvalid."""
    if not _NAME.fullmatch(name):
        raise UserNameInvalid(
            f"user name {quote(name)}; expected 1 to 64 letters, digits and . _ @ -, first and last a letter or digit"
        )
    if name.lower() in RESERVED:
        raise UserNameInvalid(f"user name {quote(name)} is reserved for the ledger: choose another")


class UserFile:
    """One htpasswd file. `current` costs one stat while the file does not change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = os.fspath(path)
        self._held = NO_USERS

    def current(self) -> Users:
        """Return the users now, none if there is no file. Raises: UsersInvalid."""
        try:
            status = os.stat(self._name)  # noqa: PTH116 - each request waits for it, and a Path makes it half as fast
        except FileNotFoundError:
            self._held = NO_USERS
            return NO_USERS
        except OSError as error:
            raise UsersInvalid(f"the users' file can't be read: {error.strerror}") from error
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if version != self._held.version:
            self._held = Users(_parse(_read(self.path)), version)
        return self._held

    def put(self, name: str, bcrypt_hash: bytes) -> None:
        """Add a user, or replace a user's password. Raises: UserNameInvalid, UsersInvalid."""
        check_user_name(name)
        self._change(lambda users: users | {name: bcrypt_hash})

    def remove(self, name: str) -> None:
        """Remove a user. Raises: UserUnknown, UsersInvalid."""

        def without(users: dict[str, bytes]) -> dict[str, bytes]:
            if name not in users:
                raise UserUnknown(f"there is no user {quote(name)}")
            return {other: held for other, held in users.items() if other != name}

        self._change(without)

    def _change(self, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(f"{self.path}.lock", 0o600):
                users = change(dict(self.current().hashes))
                text = "".join(f"{name}:{held.decode('ascii')}\n" for name, held in sorted(users.items()))
                write_file(Disk(), self.path, text.encode("ascii"))
                self.path.chmod(0o600)
        except OSError as error:
            raise UsersInvalid(f"the users' file {self.path} can't be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsersInvalid(f"the users' file can't be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsersInvalid(f"the users' file is larger than {MAX_FILE_BYTES} bytes")
    return raw


def _parse(raw: bytes) -> dict[str, bytes]:
    users: dict[str, bytes] = {}
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:  # never shown: it may hold a password
            raise UsersInvalid(f"the users' file, line {number}: expected name:$2b$..., a bcrypt hash")
        if match[1].lower() in RESERVED:
            raise UsersInvalid(f"the users' file, line {number}: the user name {quote(match[1])} is reserved")
        if match[1] in users:
            raise UsersInvalid(f"the users' file, line {number}: user {quote(match[1])} appears twice")
        users[match[1]] = match[2].encode("ascii")
    return users
