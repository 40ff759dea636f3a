"""Add, remove and list users, with or without a running server.

Users are rows of the database once a server has created or migrated the data folder; before that, lines of the users'
file. A user who is in the file is changed there.
"""

from __future__ import annotations

from boltseal.errors import quote
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import account_table
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import UserFile, UserUnknown, check_user_name, parse_accounts
from boltseal.server.store_factory import has_accounts, open_metadata, read_accounts


def list_users(settings: Settings) -> list[str]:
    """Return the names of all users, sorted. Raises: UsersInvalid, Unavailable."""
    rows = [row.name for row in read_accounts(settings)] if has_accounts(settings) else []
    return sorted({*UserFile(settings.htpasswd).current().hashes, *rows})


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
        with open_metadata(settings) as database:
            database.write_and_wait(lambda tx: account_table.put(tx, name, encrypted))


def remove_user(settings: Settings, name: str) -> None:
    """Remove a user, from the database and from the file. Raises: UserUnknown, UsersInvalid, Unavailable, Full."""

    def job(tx: UnitOfWork) -> bool:
        return account_table.remove(tx, name)

    removed = False
    if has_accounts(settings):
        with open_metadata(settings) as database:
            removed = database.write_and_wait(job)
    file = UserFile(settings.htpasswd)
    if name in file.current().hashes:
        file.remove(name)
    elif not removed:
        raise UserUnknown(f"there is no user {quote(name)}")
