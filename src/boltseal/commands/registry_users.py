"""The users and grants of a registry over its admin API, by an operator who is logged in there."""

from __future__ import annotations

from typing import Any

import msgspec

from boltseal.client.admin_client import AdminClient
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.users import GrantInfo

_NAME = "users"


class _User(msgspec.Struct):
    name: str
    kind: str


class _Change(msgspec.Struct):
    change: str


class _Grants(msgspec.Struct):
    items: list[GrantInfo]
    anonymous_pull: list[str]


class RegistryUsers:
    """`UserChanges` of one registry."""

    def __init__(self, options: RegistryOptions, registry: str) -> None:
        self._registry = registry
        self._api = AdminConnection(options, self._registry)

    @property
    def where(self) -> str:
        """The registry."""
        return f"at {self._registry}"

    def users(self) -> dict[str, str]:
        """Return the users there."""

        async def read(client: AdminClient) -> dict[str, str]:
            return {item.name: item.kind async for item in client.items(_NAME, "users", _User)}

        return self._api.ask(read)

    def check_name(self, name: str) -> None:
        """Leave it to the registry."""

    def put(self, name: str, password: str) -> str:
        """Add a user there, or replace a user's password."""
        return self._add(name, {"name": name, "password": password})

    def add_service(self, name: str) -> str:
        """Add a service account there."""
        return self._add(name, {"name": name, "service": True})

    def remove(self, name: str) -> None:
        """Remove a user there."""
        what = f"removal of user {name}"
        self._api.ask(lambda client: client.delete(_NAME, what, {"name": name}, _Change, advice=self._advice))

    def grants(self) -> list[GrantInfo]:
        """Return the grants in force there."""
        found = self._api.ask(lambda client: client.read("grants", "the grants in force", _Grants))
        return [*found.items, *map(GrantInfo.anonymous, found.anonymous_pull)]

    def _add(self, name: str, fields: dict[str, Any]) -> str:
        what = f"change of user {name}"
        return self._api.ask(lambda client: client.change(_NAME, what, fields, _Change, advice=self._advice)).change

    @property
    def _advice(self) -> str:
        return f"`boltseal admin user ls --server {self._registry}` shows the users, and the command can be run again"
