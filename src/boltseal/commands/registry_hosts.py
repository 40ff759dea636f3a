"""The hosts that report to a registry, over its admin API: the values of the commands `admin host ls`, `show` and `forget`."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from boltseal.client.admin_client import AdminClient
from boltseal.client.errors import RemoteNotFound
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_tags import registry_of
from boltseal.errors import quote
from boltseal.policy.host_report import ReportCounts, ReportedImage, ReportedRelease

T = TypeVar("T")


class HostReportInfo(msgspec.Struct, frozen=True):
    """The newest report of a kind and subject. Times are ISO 8601 in UTC. `outcome`, `counts` None: for operators only."""

    kind: str
    subject: str
    received: str
    due: str | None
    overdue: bool
    complete: bool
    images: int
    outcome: str | None
    counts: ReportCounts | None


class HostInfo(msgspec.Struct, frozen=True):
    """A host. `state`: `overdue` if a regular report is missing, `stopped` if all are, since `since`."""

    name: str
    login: str | None
    last: str
    state: Literal["reporting", "overdue", "stopped"]
    since: str | None
    reports: list[HostReportInfo]


class HostImageInfo(msgspec.Struct, frozen=True):
    """An image that a host reported."""

    host: str
    kind: str
    subject: str
    received: str
    overdue: bool
    repository: str
    tag: str
    image: ReportedImage


class HostReleaseInfo(msgspec.Struct, frozen=True):
    """A release that a host reported."""

    host: str
    project: str
    received: str
    release: ReportedRelease


class _Forgotten(msgspec.Struct):
    host: HostInfo


class RegistryHosts:
    """The hosts of one registry. Raises of all: Denied; errors of the connection."""

    def __init__(self, options: RegistryOptions, server: str) -> None:
        self._registry = registry_of(server)
        self._api = AdminConnection(options, self._registry)

    def hosts(self) -> list[HostInfo]:
        """Return all hosts that run something which the caller may pull; an operator gets all."""
        return self._list("hosts", "the list of hosts", HostInfo, {})

    def host(self, name: str) -> HostInfo:
        """Return a host. Raises: RemoteNotFound: it has not reported, or the caller may not see it."""
        found = next((each for each in self.hosts() if each.name == name), None)
        if found is None:
            raise RemoteNotFound(f"{self._registry} has no report of host {quote(name)}, or none that you may see")
        return found

    def images(self, **which: str) -> list[HostImageInfo]:
        """Return what hosts reported: by `host`, `digest`, or `repository` and `tag`."""
        return self._list("hosts/images", "the images of hosts", HostImageInfo, which)

    def releases(self, host: str) -> list[HostReleaseInfo]:
        """Return the last releases of a host, the newest first."""
        return self._list("releases", "the releases of hosts", HostReleaseInfo, {"host": host})

    def forget(self, name: str, *, dry_run: bool) -> HostInfo:
        """Remove a host and its reports, which then keep no image; return it. `dry_run`: only return it."""
        query = {"host": name} | ({"dry_run": "true"} if dry_run else {})
        advice = f"`boltseal admin host ls --server {self._registry}` shows it, and the command can be run again"
        what = f"removal of host {name}"
        try:
            return self._api.ask(lambda client: client.delete("host", what, query, _Forgotten, advice=advice)).host
        except RemoteNotFound as error:
            raise RemoteNotFound(
                f"{self._registry} has no host {name}; `boltseal admin host ls --server {self._registry}` lists them"
            ) from error

    def _list(self, name: str, what: str, kind: type[T], query: dict[str, str]) -> list[T]:
        async def read(client: AdminClient) -> list[T]:
            return [item async for item in client.items(name, what, kind, query)]

        return self._api.ask(read)
