"""Follow a ledger from outside: every entry, the tree over them, and what the registry answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boltseal.client.ledger_client import registry_of
from boltseal.client.ledger_monitor.monitor import Monitor, MonitorReport
from boltseal.client.ledger_monitor.progress_file import MonitorMemory
from boltseal.client.ledger_trust import LedgerWatch, give_key
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.ledger.note import VerifierKey


@dataclass(frozen=True, slots=True)
class MonitorRequest:
    """A registry to monitor. `key`: its ledger's key. `folder`: where progress is kept; default: the client's state."""

    url: str
    key: str | None = None
    folder: Path | None = None
    every_tag: bool = False


def monitor_ledger(request: MonitorRequest, options: RegistryOptions) -> MonitorReport:
    """Continue from the last run, and check all new entries. Raises: KeyDiffers, LedgerBroken, NotTrusted."""
    client, registry = options.client, registry_of(request.url)
    folder = request.folder or client.state_folder
    state = ClientState(folder)
    if request.key is not None:
        give_key(state, registry, VerifierKey.parse(request.key), client.now_s())

    async def run(transport: Transport) -> MonitorReport:
        watch = LedgerWatch(state, transport, client.now_s, strict=options.strict)
        memory = MonitorMemory(folder, registry)
        return await Monitor(memory, watch, transport, registry, every_tag=request.every_tag).look()

    return ask(options, [registry], run)


def monitor_outcome(report: MonitorReport) -> Outcome:
    """Return DIFFERS for a broken rule, UNKNOWN if something could not be checked."""
    if report.problems:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if report.unchecked else Outcome.HOLDS
