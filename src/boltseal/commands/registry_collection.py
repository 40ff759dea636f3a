"""Garbage collection over the admin API of a registry, by an operator who is logged in there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from boltseal.client.admin_client import MAX_PAGES, AdminPage
from boltseal.client.errors import RemoteMismatch
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.collection import CollectedItem, CollectionProgress
from boltseal.commands.registry_access import RegistryOptions
from boltseal.errors import Invalid

_WHAT: Final = "garbage collection"
LIMIT: Final = 1000
"""Items of a part; the API allows no more."""
ADVICE: Final = "run the command again; it deletes what is left"


class _Item(msgspec.Struct):
    what: str
    name: str
    size: int
    reason: str
    status: Literal["removed", "hidden", "kept", "failed"]
    freed: int


class _Part(AdminPage, kw_only=True):
    items: list[_Item]


class RegistryCollection:
    """`GarbageCollection` of one registry."""

    def __init__(self, options: RegistryOptions, registry: str) -> None:
        self._registry = registry
        self._api = AdminConnection(options, registry)

    def collect(self, *, dry_run: bool, full: bool, progress: CollectionProgress) -> Iterator[CollectedItem]:
        """Collect there, a part for each request, and yield the items of each part. Raises: Invalid: `full`."""
        if full:
            raise Invalid("--full works only on the data folder; run it there, without --server")
        cursor, done = "", 0
        seen: set[str] = set()
        for _ in range(MAX_PAGES):
            part = self._part(cursor, dry_run=dry_run)
            for each in part.items:
                yield CollectedItem(each.what, each.name, each.size, each.reason, each.status, each.freed)
            done += len(part.items)
            progress("items", done, 0)
            if part.next is None:
                return
            seen.add(cursor)
            # Without a dry run the same position may follow, because the items before it are deleted.
            if part.next in seen and (dry_run or not part.items):
                break
            cursor = part.next
        raise RemoteMismatch(f"{self._registry} has no end of {_WHAT}: it sent the same page twice")

    def _part(self, cursor: str, *, dry_run: bool) -> _Part:
        fields = {"dry_run": dry_run, "limit": LIMIT, "cursor": cursor}
        return self._api.ask(lambda client: client.change("gc", _WHAT, fields, _Part, advice=ADVICE))
