"""Add, remove and list users, with or without a running server.

Users are rows of the database once a server has created or migrated the data folder; before that, lines of the users'
file. A user who is in the file is changed there.
"""

from __future__ import annotations

from boltseal.errors import Invalid, quote
from boltseal.server.commands.data_folder import local_admin
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import account_table, api_token_table, audit_table, person_table, session_table
from boltseal.server.storage.metadata.migrate import TOKENS_FORMAT
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata_factory import check_metadata, open_snapshot
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import UserFile, UserUnknown, check_user_name, parse_accounts
from boltseal.server.store_factory import has_accounts, open_metadata, read_accounts


def list_users(settings: Settings) -> dict[str, str]:
    """Return all users, sorted by name: each a `user`, a `service` account or a `person` of the identity provider. Raises: UsersInvalid, Unavailable."""
    found: dict[str, str] = {}
    if has_accounts(settings):
        with open_snapshot(settings.server.data, settings.storage) as snapshot:
            services = api_token_table.service_accounts(snapshot) if api_token_table.is_there(snapshot) else []
            people = person_table.every(snapshot) if person_table.is_there(snapshot) else []
            found = {row.name: "person" for row in people} | dict.fromkeys(services, "service")
            found |= {row.name: "user" for row in account_table.all_accounts(snapshot)}
    found |= dict.fromkeys(UserFile(settings.htpasswd).current().hashes, "user")
    return dict(sorted(found.items()))


def is_service(snapshot: Snapshot, name: str) -> bool:
    """Return whether a name is that of a service account."""
    return api_token_table.is_there(snapshot) and name in api_token_table.service_accounts(snapshot)


def _refuse_person(tx: UnitOfWork, name: str) -> None:
    """Raise Invalid if a person of the identity provider has this name, whose rights and API tokens another user must not get."""
    if person_table.is_there(tx) and person_table.named(tx, name) is not None:
        raise Invalid(
            f"{quote(name)} is a person of the identity provider; choose another name, or remove the person first"
        )


def put_user(settings: Settings, name: str, password_hash: bytes) -> None:
    """Add a user, or replace a user's password.

    Raises: UserNameInvalid, UsersInvalid, Unavailable, Full; UserKeyUnreadable: the other users have another key.
    """
    check_user_name(name)
    file = UserFile(settings.htpasswd)
    in_file = name in file.current().hashes
    if in_file or not has_accounts(settings):
        file.put(name, password_hash)
    if has_accounts(settings) and not in_file:
        # In this order: another process that adds the first user creates the key before it writes the row.
        rows = read_accounts(settings)
        key = UserKey(settings.keys)
        encrypted = key.encrypt(name, password_hash, may_create=not rows)
        # A row under another key than the others' would refuse every login, also with the right key back in place.
        parse_accounts((row for row in rows if row.name != name), key)

        def job(tx: UnitOfWork) -> None:
            if is_service(tx, name):
                raise Invalid(f"{quote(name)} is a service account, which has no password; remove it first")
            _refuse_person(tx, name)
            known = account_table.put(tx, name, encrypted)
            audit_table.record(tx, local_admin().name, "user.changed" if known else "user.added", name)

        with open_metadata(settings) as database:
            database.write_and_wait(job)


def add_service(settings: Settings, name: str) -> bool:
    """Add a service account, which has no password and only API tokens. Return whether it is new.

    Raises: UserNameInvalid, UsersInvalid, Unavailable, Full, FormatInvalid; Invalid: there is a person of this name.
    """
    check_user_name(name)
    check_metadata(settings.server.data, settings.storage, oldest=TOKENS_FORMAT)
    if name in UserFile(settings.htpasswd).current().hashes:
        raise Invalid(f"{quote(name)} is a person in the users' file; choose another name")

    def job(tx: UnitOfWork) -> bool:
        if any(row.name == name for row in account_table.all_accounts(tx)):
            raise Invalid(f"{quote(name)} is a person; choose another name, or remove the person first")
        _refuse_person(tx, name)
        added = api_token_table.add_service(tx, name)
        if added:
            audit_table.record(tx, local_admin().name, "service.added", name)
        return added

    with open_metadata(settings) as database:
        return database.write_and_wait(job)


def remove_user(settings: Settings, name: str) -> None:
    """Remove a user with all API tokens and sessions, from the database and from the file.

    Raises: UserUnknown, UsersInvalid, Unavailable, Full.
    """

    def job(tx: UnitOfWork) -> bool:
        was_there = api_token_table.is_there(tx) and api_token_table.remove_owner(tx, name)
        was_there = account_table.remove(tx, name) or was_there
        if person_table.is_there(tx):
            session_table.remove_of_owner(tx, name)
            was_there = person_table.remove(tx, name) or was_there
        if was_there or in_file:
            audit_table.record(tx, local_admin().name, "user.removed", name)
        return was_there

    in_file = name in UserFile(settings.htpasswd).current().hashes
    removed = False
    if has_accounts(settings):
        with open_metadata(settings) as database:
            removed = database.write_and_wait(job)
    if in_file:
        UserFile(settings.htpasswd).remove(name)
    elif not removed:
        raise UserUnknown(f"there is no user {quote(name)}")
