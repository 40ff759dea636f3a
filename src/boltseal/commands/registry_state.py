"""The state of a registry over its admin API, by an operator: its logs, audit log, held tags, requested rebuilds and upstreams."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from boltseal.client.admin_client import AdminClient
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_tags import registry_of

T = TypeVar("T")


class LogInfo(msgspec.Struct, frozen=True):
    """The state of a log. `size`, `signed`, `witnessed`: numbers of entries. `doubt`: why it accepts no entries; None: it accepts them."""

    name: str
    origin: str
    size: int
    signed: int
    witnessed: int
    last: str | None
    doubt: str | None


class AuditInfo(msgspec.Struct, frozen=True):
    """A record of the audit log."""

    number: int
    time: str
    actor: str
    action: str
    subject: str
    detail: str


class HeldInfo(msgspec.Struct, frozen=True):
    """An upstream's tag whose new digest is held back. `served`: what clients get."""

    repository: str
    tag: str
    digest: str
    served: str | None
    since: str


class RebuildInfo(msgspec.Struct, frozen=True):
    """The last request to rebuild an image whose base is outdated."""

    image: str
    base: str
    digest: str
    time: str
    outcome: str
    tries: int
    summary: str


class UpstreamInfo(msgspec.Struct, frozen=True):
    """An upstream, and what is left of its pull limit. Times are ISO 8601 in UTC."""

    name: str
    down_since: str | None
    down_reason: str
    limit: int | None
    remaining: int | None
    window_s: int | None
    reported: str | None
    reserve: int
    paused_until: str | None
    pause_reason: str
    source: str | None = None


class _Logs(msgspec.Struct):
    items: list[LogInfo]


class _Upstreams(msgspec.Struct):
    items: list[UpstreamInfo]


class RegistryState:
    """The state of one registry. Raises of all: Denied; errors of the connection."""

    def __init__(self, options: RegistryOptions, server: str) -> None:
        self._registry = registry_of(server)
        self._api = AdminConnection(options, self._registry)

    def logs(self) -> list[LogInfo]:
        """Return the logs that have begun."""
        return self._api.ask(lambda client: client.read("ledger", "the state of the logs", _Logs)).items

    def upstreams(self) -> list[UpstreamInfo]:
        """Return the configured upstreams."""
        return self._api.ask(lambda client: client.read("upstreams", "the upstreams", _Upstreams)).items

    def held(self) -> list[HeldInfo]:
        """Return the held tags of all upstreams, sorted by repository and tag."""
        return self._list("held", "the held tags", HeldInfo)

    def rebuilds(self) -> list[RebuildInfo]:
        """Return the last request for each image and base, sorted by image and base."""
        return self._list("rebuilds", "the requested rebuilds", RebuildInfo)

    def audit(self, newest: int) -> list[AuditInfo]:
        """Return the `newest` last records of the audit log, the newest first."""
        return self._list("audit", "the audit log", AuditInfo, newest)

    def _list(self, name: str, what: str, kind: type[T], most: int | None = None) -> list[T]:
        async def read(client: AdminClient) -> list[T]:
            found: list[T] = []
            query = {} if most is None else {"limit": str(min(most, 1000))}
            async for item in client.items(name, what, kind, query):
                found.append(item)
                if len(found) == most:
                    break
            return found

        return self._api.ask(read)
