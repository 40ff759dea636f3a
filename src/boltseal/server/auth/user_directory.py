"""The users of a server: rows of its database, and those of a users' file where there is one.

`boltseal admin user` writes rows once the data folder exists. The file (`[auth] htpasswd`, or DATA.keys/htpasswd) is for
users that another program manages, and for those from before data format 5. A name in both has the password of the file.

A row says that there was a user once, of either kind. Once a server behind a proxy has had one, removing the last opens none of the
servers on this database, also after a restart: clients that the proxy lets in must not get everything then.

While the database does not answer, sealed content may be sent from caches for a while (`Generation.stale`). Then the users of the
database are unknown: only those of the file, and anonymous clients, have rights.

Each request compares the generation, which needs no query, and the file's time. If the generation has changed, the
directory queries the versions of the rows; where one has changed, it queries those rows. API tokens, service accounts and people of the
identity provider are read with the users, so that a revoked token is refused at the next request, as a removed user is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from boltseal.errors import BoltsealError, Unavailable
from boltseal.server.auth.people import parse_people
from boltseal.server.storage.coordination.outages import GIVE_UP_S, is_outage, may_serve_stale
from boltseal.server.storage.metadata import account_table
from boltseal.server.storage.metadata.protocol import AccountVersion, Metadata, TokenVersion
from boltseal.server.storage.user_key import UserKey, UserKeyUnreadable
from boltseal.server.storage.users import NO_USERS, UserFile, Users, UsersInvalid, parse_accounts

_log = structlog.get_logger(__name__)


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
        self._token_version: TokenVersion | None = None
        self._rows = NO_USERS
        self._merged = (NO_USERS, NO_USERS, NO_USERS)
        self.unknown: Unavailable | None = None
        """Why the users of the database are not known now; None if they are."""
        self.existed = False
        """Whether there was a user once, as far as this process knows."""
        self._existed_everywhere = False
        """Whether the row says so, too."""

    @property
    def accounts(self) -> AccountRows | None:
        """The users of a database, None: there are only those of a file."""
        return self._accounts

    @property
    def stale(self) -> bool:
        """Whether `refresh` must be called before the users are used."""
        if self._accounts is None:
            return False
        is_other = self._accounts.database.generation.read() != self._generation
        return is_other or self.unknown is not None or self.existed > self._existed_everywhere

    async def refresh(self, *, alone: bool = False) -> None:
        """Read the rows again if they have changed. `alone`: clients have rights that do not depend on users.

        Raises: UsersInvalid, UserKeyUnreadable; Unavailable: the database does not answer, and without it no client has a right.
        """
        if self._accounts is None:
            return
        generation = self._accounts.database.generation
        alone = alone or bool(self._file.current().hashes)
        if alone and is_outage(generation) and may_serve_stale(generation):
            self.unknown = _no_answer()
            return
        try:
            async with asyncio.timeout(None if generation.stale() is None else GIVE_UP_S):
                await self._read(self._accounts)
        except (UsersInvalid, UserKeyUnreadable):
            raise
        except (Unavailable, TimeoutError) as error:
            if not (alone and may_serve_stale(generation)):
                raise _no_answer() if isinstance(error, TimeoutError) else error from None
            self.unknown = _no_answer()
        else:
            self.unknown = None

    async def _read(self, accounts: AccountRows) -> None:
        database = accounts.database
        generation = database.generation.read()
        if generation != self._generation:
            version = await database.lookups.logins.account_version()
            token_version = await database.lookups.tokens.token_version()
            if (version, token_version) != (self._version, self._token_version):
                self._rows = await self._users_of_rows(accounts)
                self._version, self._token_version = version, token_version
        if not self._existed_everywhere:
            await self._note_existed(database)
        self._generation = None if generation & 1 else generation

    async def _users_of_rows(self, accounts: AccountRows) -> Users:
        """Return the users and API tokens of the rows. Raises: UsersInvalid, UserKeyUnreadable, Unavailable."""
        lookups = accounts.database.lookups
        persons = parse_accounts(await lookups.logins.accounts(), accounts.key)
        services = dict.fromkeys(await lookups.tokens.service_accounts(), b"")
        tokens = {row.id: row for row in await lookups.tokens.api_tokens()}
        people = parse_people(await lookups.tokens.people(), accounts.key)
        if not (services or tokens or people):
            return persons
        hashes = {**dict.fromkeys(people, b""), **services, **persons.hashes}
        return Users(hashes, persons.version, tokens, people)

    async def _note_existed(self, database: Metadata) -> None:
        """Learn from the row whether there was a user, or write the row. Raises: Unavailable: it can't be read."""
        self._existed_everywhere = await database.lookups.logins.users_existed()
        self.existed = (
            self.existed or self._existed_everywhere or bool(self._rows.hashes or self._file.current().hashes)
        )
        if self.existed and not self._existed_everywhere:
            try:
                await database.write(account_table.note_existed)
            except (
                BoltsealError
            ) as error:  # such as a full disk: this process knows it, and tries again at the next request
                _log.warning("other servers cannot learn that there were users", reason=error.message)
            else:
                self._existed_everywhere = True

    def in_file(self, name: str) -> bool:
        """Return whether the users' file has a user. Raises: UsersInvalid."""
        return name in self._file.current().hashes

    def current(self) -> Users:
        """Return the users as of the last refresh: the same object while nothing has changed.

        Raises: UsersInvalid, Unavailable.
        """
        file = self._file.current()
        self.existed = self.existed or bool(file.hashes)
        if self.unknown is not None:
            return file
        if self._accounts is not None and self._version is None:
            raise Unavailable("the users were not read yet; try again")
        if file is self._merged[0] and self._rows is self._merged[1]:
            return self._merged[2]
        people = {name: person for name, person in self._rows.people.items() if name not in file.hashes}
        merged = Users({**self._rows.hashes, **file.hashes}, file.version, self._rows.tokens, people)
        self._merged = (file, self._rows, merged)
        return merged


def _no_answer() -> Unavailable:
    return Unavailable(
        "the registry's database does not answer, so logins can't be checked: what needs one is refused; try again later"
    )
