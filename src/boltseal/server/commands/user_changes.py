"""Changes of users in the database, each with its record in the audit log: for `boltseal admin user` and the admin API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from boltseal.errors import Invalid, NotFound, quote
from boltseal.server.auth.access import Access
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.registry.dry_run import undone
from boltseal.server.storage.metadata import account_table, api_token_table, audit_table, person_table, session_table
from boltseal.server.storage.metadata.protocol import AccountRow, Snapshot, UnitOfWork
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import UserUnknown, check_user_name, parse_accounts

ADDED: Final = "added"
CHANGED: Final = "changed"
UNCHANGED: Final = "unchanged"


def is_service(snapshot: Snapshot, name: str) -> bool:
    """Return whether a name is that of a service account."""
    return api_token_table.is_there(snapshot) and name in api_token_table.service_accounts(snapshot)


def _refuse_person(tx: UnitOfWork, name: str) -> None:
    """Raise Invalid if a person of the identity provider has this name, whose rights and API tokens another user must not get."""
    if person_table.is_there(tx) and person_table.named(tx, name) is not None:
        raise Invalid(
            f"{quote(name)} is a person of the identity provider; choose another name, or remove the person first"
        )


def encrypted_hash(rows: Sequence[AccountRow], key: UserKey, name: str, password_hash: bytes) -> str:
    """Return the hash of a password for the row of a user. `rows`: all that there are.

    Raises: UserKeyUnreadable: the other users have another key.
    """
    encrypted = key.encrypt(name, password_hash, may_create=not rows)
    # A row under another key than the others' would refuse every login, also with the right key back in place.
    parse_accounts((row for row in rows if row.name != name), key)
    return encrypted


def write_user(tx: UnitOfWork, name: str, encrypted: str, actor: Actor) -> bool:
    """Add a user, or replace a user's password. Return whether the user was there. Raises: Invalid: the name is another kind of user's."""
    if is_service(tx, name):
        raise Invalid(f"{quote(name)} is a service account, which has no password; remove it first")
    _refuse_person(tx, name)
    known = account_table.put(tx, name, encrypted)
    audit_table.record(tx, actor.recorded, "user.changed" if known else "user.added", name)
    return known


def write_service(tx: UnitOfWork, name: str, actor: Actor) -> bool:
    """Add a service account. Return whether it is new. Raises: Invalid: the name is another kind of user's."""
    if any(row.name == name for row in account_table.all_accounts(tx)):
        raise Invalid(f"{quote(name)} is a person; choose another name, or remove the person first")
    _refuse_person(tx, name)
    added = api_token_table.add_service(tx, name)
    if added:
        audit_table.record(tx, actor.recorded, "service.added", name)
    return added


def erase_user(tx: UnitOfWork, name: str, actor: Actor, *, in_file: bool = False) -> bool:
    """Remove a user with all API tokens and sessions. Return whether the database had one. `in_file`: the users' file has one."""
    was_there = api_token_table.is_there(tx) and api_token_table.remove_owner(tx, name)
    was_there = account_table.remove(tx, name) or was_there
    if person_table.is_there(tx):
        session_table.remove_of_owner(tx, name)
        was_there = person_table.remove(tx, name) or was_there
    if was_there or in_file:
        audit_table.record(tx, actor.recorded, "user.removed", name)
    return was_there


class ServedUsers:
    """Changes the users of a running server's database. A change is made when no server accepts the former login any more."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @property
    def _accounts(self) -> AccountRows:
        if self._access.accounts is None:
            raise NotFound("this registry has no users in a database")
        return self._access.accounts

    async def put(self, name: str, password: str, actor: Actor, *, dry_run: bool) -> str:
        """Add a user, or replace a user's password. Return which. `dry_run`: only return it.

        Raises: Invalid, UserNameInvalid, UsersInvalid, UserKeyUnreadable, LoginsTooMany, Unavailable, Full.
        """
        self._check_name(name)
        try:
            hashed = await self._access.callers.hash_password(password)
        except ValueError as error:
            raise Invalid(f"no password was set: {error}") from error
        database = self._accounts.database
        encrypted = encrypted_hash(await database.read(account_table.all_accounts), self._accounts.key, name, hashed)

        def job(tx: UnitOfWork) -> str:
            return CHANGED if write_user(tx, name, encrypted, actor) else ADDED

        return await database.write(undone(job) if dry_run else job)

    async def add_service(self, name: str, actor: Actor, *, dry_run: bool) -> str:
        """Add a service account. Return what was done. Raises: Invalid, UserNameInvalid, UsersInvalid, Unavailable, Full."""
        self._check_name(name)

        def job(tx: UnitOfWork) -> str:
            return ADDED if write_service(tx, name, actor) else UNCHANGED

        return await self._accounts.database.write(undone(job) if dry_run else job)

    async def remove(self, name: str, actor: Actor, *, dry_run: bool) -> None:
        """Remove a user of any kind. Raises: UserUnknown, Invalid, UsersInvalid, Unavailable, Full."""
        self._refuse_file(name)

        def job(tx: UnitOfWork) -> None:
            if not erase_user(tx, name, actor):
                raise UserUnknown(f"there is no user {quote(name)}")

        await self._accounts.database.write(undone(job) if dry_run else job)

    def _check_name(self, name: str) -> None:
        check_user_name(name)
        self._refuse_file(name)

    def _refuse_file(self, name: str) -> None:
        """Raise Invalid if the users' file has this user: each server has a file of its own, which another program may write."""
        if self._access.in_file(name):
            raise Invalid(
                f"{quote(name)} is in the users' file of the server; change it there, with `boltseal admin user` beside the data folder"
            )
