"""Proves the `built` entries that claims about bases are from: a changed database can list others than the ledger has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from boltseal.client.history import unproven_entries
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Mismatch
from boltseal.ledger.entry import Entry
from boltseal.ledger.follow import LedgerBroken


async def unproven_builds(
    transport: Transport,
    check: LedgerCheck,
    used: Sequence[Mapping[int, Entry]],
    follow: Callable[[str], Awaitable[LedgerCheck]],
) -> list[BoltsealError | None]:
    """Return why each image's entries are not proven, in order; None for an image whose entries are.

    `used`: the entries of each image by index. `check`: of their registry's ledger. The proofs of all images are read
    together.

    Raises: LedgerBroken.
    """
    try:
        lost = await unproven_entries(
            transport, check, {index: entry for entries in used for index, entry in entries.items()}, follow
        )
    except LedgerBroken:
        raise
    except BoltsealError as error:
        return [error if entries else None for entries in used]
    return [_error(check.registry, entries, lost) for entries in used]


def _error(registry: str, entries: Mapping[int, Entry], lost: Mapping[int, str]) -> BoltsealError | None:
    for index in entries:
        if index in lost:
            return Mismatch(
                f"{registry} lists an entry {index} that its ledger does not prove: {lost[index]}; it is not used"
            )
    return None
