"""`boltseal outdated --log`: the rebuilds that this client requested, or that a registry's ledger records."""

from __future__ import annotations

from typing import NamedTuple

from boltseal.client.catalog import list_repositories
from boltseal.client.ledger_records import list_records
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.ledger.entry import EntryKind, format_time
from boltseal.project.bases.rebuild_journal import RebuildJournal


class RebuildRecord(NamedTuple):
    """One requested rebuild. `time`: RFC 3339; `digest`: of the base that the request was for."""

    time: str
    image: str
    base: str
    digest: str
    outcome: str
    reason: str


def requested_here(client: ClientContext) -> list[RebuildRecord]:
    """Return the rebuilds that this client requested, oldest first. Raises: StateUnusable."""
    return [
        RebuildRecord(format_time(one.time_us), one.image, one.base, one.digest, str(one.outcome), one.summary)
        for one in RebuildJournal(client.state).lines()
    ]


def requested_at(options: RegistryOptions, registry: str) -> list[RebuildRecord]:
    """Return the rebuilds that the ledger of a registry records, oldest first. Raises: NoRecords, LedgerBroken."""

    async def read(transport: Transport) -> list[RebuildRecord]:
        found: list[tuple[int, RebuildRecord]] = []
        async for repository in list_repositories(transport, registry):
            for index, entry in await list_records(transport, registry, repository):
                if entry.kind is EntryKind.REBUILD_REQUESTED:
                    name = f"{registry}/{repository}" + (f":{entry.tag}" if entry.tag else f"@{entry.digest}")
                    extra = entry.extra
                    row = RebuildRecord(
                        time=format_time(entry.time_us),
                        image=name,
                        base=extra.get("base.name", ""),
                        digest=extra.get("base.digest", ""),
                        outcome=extra.get("outcome", ""),
                        reason=extra.get("told", ""),
                    )
                    found.append((index, row))
        return [row for _, row in sorted(found)]

    return ask_followed(options, [registry], read)
