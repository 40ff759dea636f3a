"""The users of a server: rows of its database, and those of a users' file where there is one.

`boltseal admin user` writes rows once the data folder exists. The file (`[auth] htpasswd`, or DATA.keys/htpasswd) is for
users that another program manages, and for those from before data format 5. A name in both has the password of the file.

Each request compares the generation, which needs no query, and the file's time. If the generation has changed, the
directory queries the version of the rows; if that has changed too, it queries the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.errors import Unavailable
from boltseal.server.storage.metadata.protocol import AccountVersion, Metadata
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import NO_USERS, UserFile, Users, parse_accounts


@dataclass(frozen=True, slots=True)
class AccountRows:
    """The users in a database, and the key that their password hashes are encrypted with."""

    database: Metadata
    key: UserKey


class UserDirectory:
    """The users of one process: those of a users' file, and with `accounts` those of a database.

    Call `refresh` at the beginning of a request.
    """

    def __init__(self, file: UserFile, accounts: AccountRows | None = None) -> None:
        self._file = file
        self._accounts = accounts
        self._generation: int | None = None
        self._version: AccountVersion | None = None
        self._rows = NO_USERS
        self._merged = (NO_USERS, NO_USERS, NO_USERS)

    @property
    def stale(self) -> bool:
        """Whether `refresh` must be called before the users are used."""
        return self._accounts is not None and self._accounts.database.generation.read() != self._generation

    async def refresh(self) -> None:
        """Read the rows again if they have changed. Raises: UsersInvalid, UserKeyUnreadable, Unavailable."""
        if self._accounts is None:
            return
        database = self._accounts.database
        generation = database.generation.read()
        if generation == self._generation:
            return
        version = await database.lookups.logins.account_version()
        if version != self._version:
            self._rows = parse_accounts(await database.lookups.logins.accounts(), self._accounts.key)
            self._version = version
        self._generation = None if generation & 1 else generation

    def current(self) -> Users:
        """Return the users as of the last refresh: the same object while nothing has changed.

        Raises: UsersInvalid, Unavailable.
        """
        if self._accounts is not None and self._version is None:
            raise Unavailable("the users were not read yet; try again")
        file = self._file.current()
        if file is self._merged[0] and self._rows is self._merged[1]:
            return self._merged[2]
        merged = Users({**self._rows.hashes, **file.hashes}, file.version)
        self._merged = (file, self._rows, merged)
        return merged
