"""Users and grants of a registry: the values of the commands `admin user add`, `remove`, `ls` and `grants`.

`UserChanges` has two implementations: on a data folder (`server.commands.users`) and over the admin API of a registry
(`commands.registry_users`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GrantInfo:
    """A grant: what users and groups may do in the repositories that a glob matches. `anonymous_clients`: also without a login."""

    users: list[str]
    groups: list[str]
    repository: str
    actions: list[str]
    anonymous_clients: bool = False

    @classmethod
    def anonymous(cls, repository: str) -> GrantInfo:
        """Return a glob of `anonymous_pull` as a grant."""
        return cls([], [], repository, ["pull"], anonymous_clients=True)


class UserChanges(Protocol):
    """The users and grants of one registry. Each change is recorded in its audit log, and valid from the next request on.

    Raises of all: Invalid; Denied; errors of the data folder, or of the connection.
    """

    @property
    def where(self) -> str:
        """Where users are looked for, in words."""
        ...

    def users(self) -> dict[str, str]:
        """Return all users, sorted by name: each a `user`, a `service` account or a `person` of the identity provider."""
        ...

    def check_name(self, name: str) -> None:
        """Refuse a name that no user can have, before a password is asked for; over the network the registry does that later."""
        ...

    def put(self, name: str, password: str) -> str:
        """Add a user, or replace a user's password. Return `added` or `changed`."""
        ...

    def add_service(self, name: str) -> str:
        """Add a service account. Return `added` or `unchanged`."""
        ...

    def remove(self, name: str) -> None:
        """Remove a user with all tokens and sessions. Raises: NotFound: there is none."""
        ...

    def grants(self) -> list[GrantInfo]:
        """Return the grants in force."""
        ...
