"""Deletion of overdue tags over the admin API of a registry, by an operator who is logged in there."""

from __future__ import annotations

from typing import Literal

import msgspec

from boltseal.client.admin_client import AdminClient, AdminPage
from boltseal.client.errors import RemoteMismatch
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.expiry import OverdueTagInfo
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_collection import ADVICE, LIMIT

_WHAT = "deletion of overdue tags"


class _Tag(msgspec.Struct):
    repository: str
    tag: str
    status: Literal["expired", "kept"]
    reason: str


class _Page(AdminPage, kw_only=True):
    items: list[_Tag]


class RegistryExpiry:
    """`TagExpiry` of one registry."""

    def __init__(self, options: RegistryOptions, registry: str) -> None:
        self._registry = registry
        self._api = AdminConnection(options, registry)

    def expire(self, *, dry_run: bool) -> list[OverdueTagInfo]:
        """Delete the overdue tags there, a page at a time."""

        async def run(client: AdminClient) -> list[OverdueTagInfo]:
            found: list[_Tag] = []
            cursor: str | None = ""
            seen: set[str] = set()
            while cursor is not None:
                if cursor in seen:
                    raise RemoteMismatch(f"{self._registry} has no end of overdue tags: it sent the same page twice")
                seen.add(cursor)
                fields = {"dry_run": dry_run, "limit": LIMIT, "cursor": cursor}
                page = await client.change("expire", _WHAT, fields, _Page, advice=ADVICE)
                found += page.items
                cursor = page.next
            rows = [OverdueTagInfo(each.repository, each.tag, each.reason) for each in found]
            return sorted(rows, key=lambda each: (each.repository, each.tag))

        return self._api.ask(run)
