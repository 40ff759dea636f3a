"""Deletion of overdue tags on a data folder, beside a running server or without one."""

from __future__ import annotations

from boltseal.commands.expiry import OverdueTagInfo
from boltseal.server.commands.data_folder import local_admin, on_store
from boltseal.server.settings import Settings


class LocalExpiry:
    """`TagExpiry` on one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def expire(self, *, dry_run: bool) -> list[OverdueTagInfo]:
        """Delete the overdue tags of the data folder."""
        done = on_store(self._settings, lambda store: store.registry.seals.expire(local_admin(), dry_run=dry_run))
        gone = [OverdueTagInfo(str(each.repository), str(each.tag)) for each in done.expired]
        kept = [OverdueTagInfo(str(each.repository), str(each.tag), each.reason) for each in done.kept]
        return sorted([*gone, *kept], key=lambda each: (each.repository, each.tag))
