"""Registry access of commands that still take `cli.remote.RegistryOptions`; see `commands.project_images`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from boltseal.cli.remote import RegistryOptions
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport
from boltseal.commands.project_images import ledger_follower, registry_filter
from boltseal.lockfile.document import Lock


def whom_to_ask(reach: RegistryOptions, more: Sequence[str]) -> Callable[[str], bool]:
    """Return `registry_filter` of these options."""
    return registry_filter(reach.options(), more)


def watching(
    reach: RegistryOptions, transport: Transport, lock: Lock | None
) -> Callable[[str], Awaitable[LedgerCheck]]:
    """Return `ledger_follower` of these options."""
    return ledger_follower(reach.options(), transport, lock)
