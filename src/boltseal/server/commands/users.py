"""Add, remove and list users, with or without a running server.

Users are rows of the database once a server has created or migrated the data folder; before that, lines of the users'
file. A user who is in the file is changed there.
"""

from __future__ import annotations

from boltseal.commands.users import GrantInfo
from boltseal.errors import Invalid, quote
from boltseal.server.auth.logins import hash_password
from boltseal.server.commands.data_folder import local_admin
from boltseal.server.commands.user_changes import encrypted_hash, erase_user, write_service, write_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import account_table, api_token_table, person_table
from boltseal.server.storage.metadata.migrate import TOKENS_FORMAT
from boltseal.server.storage.metadata_factory import check_metadata, open_snapshot
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import UserFile, UserUnknown, check_user_name
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
        encrypted = encrypted_hash(read_accounts(settings), UserKey(settings.keys), name, password_hash)
        with open_metadata(settings) as database:
            database.write_and_wait(lambda tx: write_user(tx, name, encrypted, local_admin()))


def add_service(settings: Settings, name: str) -> bool:
    """Add a service account, which has no password and only API tokens. Return whether it is new.

    Raises: UserNameInvalid, UsersInvalid, Unavailable, Full, FormatInvalid; Invalid: there is a person of this name.
    """
    check_user_name(name)
    if not has_accounts(settings):
        raise Invalid(
            f"{settings.server.data} has no database yet, and service accounts are in it; start the registry once with "
            "`boltseal serve`, and repeat the command"
        )
    check_metadata(settings.server.data, settings.storage, oldest=TOKENS_FORMAT)
    if name in UserFile(settings.htpasswd).current().hashes:
        raise Invalid(f"{quote(name)} is a person in the users' file; choose another name")
    with open_metadata(settings) as database:
        return database.write_and_wait(lambda tx: write_service(tx, name, local_admin()))


def remove_user(settings: Settings, name: str) -> None:
    """Remove a user with all API tokens and sessions, from the database and from the file.

    Raises: UserUnknown, UsersInvalid, Unavailable, Full.
    """
    in_file = name in UserFile(settings.htpasswd).current().hashes
    removed = False
    if has_accounts(settings):
        with open_metadata(settings) as database:
            removed = database.write_and_wait(lambda tx: erase_user(tx, name, local_admin(), in_file=in_file))
    if in_file:
        UserFile(settings.htpasswd).remove(name)
    elif not removed:
        raise UserUnknown(f"there is no user {quote(name)}")


class LocalUsers:
    """`UserChanges` on one data folder, and with its users' file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def where(self) -> str:
        """Where users are looked for, in words."""
        return f"in {self._settings.htpasswd} or the database of {self._settings.server.data}"

    def users(self) -> dict[str, str]:
        """Return all users and their kinds."""
        return list_users(self._settings)

    def check_name(self, name: str) -> None:
        """Refuse a name that no user can have."""
        check_user_name(name)

    def put(self, name: str, password: str) -> str:
        """Add a user, or replace a user's password."""
        known = name in list_users(self._settings)
        try:
            hashed = hash_password(password)
        except ValueError as error:
            raise Invalid(f"no password was set: {error}; type it, or write it to standard input") from error
        put_user(self._settings, name, hashed)
        return "changed" if known else "added"

    def add_service(self, name: str) -> str:
        """Add a service account."""
        return "added" if add_service(self._settings, name) else "unchanged"

    def remove(self, name: str) -> None:
        """Remove a user."""
        remove_user(self._settings, name)

    def grants(self) -> list[GrantInfo]:
        """Return the grants of the configuration."""
        grants = self._settings.grants
        found = [
            GrantInfo(sorted(each.users), sorted(each.groups), str(each.repository), sorted(map(str, each.actions)))
            for each in grants.grants
        ]
        return [*found, *(GrantInfo.anonymous(str(glob)) for glob in grants.anonymous_pull)]
