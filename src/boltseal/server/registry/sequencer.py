"""Gives every entry its place in its log: index, time, salt, and the entry before it of the same name.

Called by the door, inside the transaction that changes the tag: entry and change are there together or not at all. What
upstreams' tags were seen to mean goes the same way into a log of its own, and nothing else does.

- Indices are gapless: the head row, locked by the transaction, holds the next one.
- Time is the clock, or one microsecond after the last entry if the clock is behind: times only ever rise.
- A clock more than five minutes behind the last entry is doubt: nothing is written, and the server is not ready.
- A store of which is doubted whether it is what was signed takes no entry (`integrator`).
- The salt makes an entry unguessable from its hash, so hash tiles can be public.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING, Final

from boltseal.errors import Unavailable
from boltseal.ledger.entry import OF_EVERY_LOG, OF_OBSERVATIONS, Entry, EntryKind, encode
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.storage.metadata.protocol import UnitOfWork

CLOCK_BEHIND_LIMIT_US: Final = 5 * 60 * 1_000_000
RULES_SHOWN_BYTES: Final = 60_000
OBSERVATIONS_ORIGIN: Final = "/observations"
"""What the log of observations is called, behind the name of the ledger."""


class ClockBehind(Unavailable):
    """This machine's clock is far behind the ledger's last entry."""


class LedgerMissing(Unavailable):
    """The ledger was never started in this store: `start_ledger` did not run."""


class LedgerFrozen(Unavailable):
    """This store may not be what its ledger signed; nothing is recorded in it."""


def check_clock(last_time_us: int, now_us: int) -> None:
    """Refuse when the clock is more than five minutes behind the ledger's last entry."""
    behind_us = last_time_us - now_us
    if behind_us > CLOCK_BEHIND_LIMIT_US:
        raise ClockBehind(
            f"the clock of the registry is {behind_us // 1_000_000} s behind its ledger's last entry: "
            "nothing is written until it is set right"
        )


def check_recordable(tx: UnitOfWork, log: Log) -> None:
    """Refuse where a log may not be what was signed of it. LedgerFrozen."""
    doubt = tx.doubts.get(log.name)
    if doubt is not None:
        raise LedgerFrozen(f"nothing is recorded: {doubt}")


def append(
    tx: UnitOfWork,
    kind: EntryKind,
    *,
    repository: Repository | None = None,
    tag: Tag | None = None,
    digest: str = "",
    media_type: str = "",
    size_bytes: int = 0,
    was: str = "",
    previous: int = -1,
    actor: str = "",
    reason: str = "",
    extra: Mapping[str, str] | None = None,
    log: Log = LEDGER,
) -> int:
    """Write one entry and return its index. `previous`: the index of the name's last entry in this log, -1 for none."""
    if kind not in OF_EVERY_LOG and (kind in OF_OBSERVATIONS) != (log is OBSERVATIONS):
        raise AssertionError(f"{kind} has no place in {log.name}")
    check_recordable(tx, log)
    head = ledger_store.lock_head(tx, log)
    if head is None:
        raise LedgerMissing(
            f"the registry's {log.name} was not started: nothing was changed; start `boltseal serve` once"
        )
    check_clock(head.last_time_us, tx.now_us)
    time_us = max(tx.now_us, head.last_time_us + 1)
    entry = Entry(
        kind=kind,
        time_us=time_us,
        registry=head.origin,
        repository=repository or "",
        tag=tag or "",
        digest=digest,
        type=media_type,
        size=size_bytes,
        was=was,
        previous=previous,
        actor=actor,
        reason=reason,
        salt=secrets.token_hex(16),
        extra=extra or {},
    )
    ledger_store.append(
        tx,
        head.size,
        time_us=time_us,
        kind=str(kind),
        repository=repository or "",
        tag=tag or "",
        line=encode(entry),
        log=log,
    )
    tx.appended.add(log.name)
    return head.size


def start_ledger(tx: UnitOfWork, *, origin: str, rules: str, actor: str) -> str:
    """At each start: begin the ledger if this store has none, and record the rules if they are not the last recorded.

    Returns the ledger's origin, which is fixed at the first start whatever the configuration says later.
    """
    head = ledger_store.lock_head(tx)
    if head is None:
        head = ledger_store.start(tx, origin)
        append(tx, EntryKind.LOG_STARTED, actor=actor)
    if head.rules != rules:
        extra = {"rules_sha256": hashlib.sha256(rules.encode()).hexdigest()}
        if len(json.dumps(rules)) <= RULES_SHOWN_BYTES:
            extra["rules"] = rules
        append(tx, EntryKind.RULES_CHANGED, actor=actor, extra=extra)
        ledger_store.set_rules(tx, rules)
    return head.origin


def start_observations(tx: UnitOfWork, *, actor: str) -> None:
    """Begin the log of observations if this store has none, under a name below the ledger's. LedgerMissing."""
    if ledger_store.lock_head(tx, OBSERVATIONS) is not None:
        return
    head = ledger_store.lock_head(tx)
    if head is None:
        raise LedgerMissing("the registry's ledger was not started: nothing was changed; start `boltseal serve` once")
    ledger_store.start(tx, f"{head.origin}{OBSERVATIONS_ORIGIN}", OBSERVATIONS)
    append(tx, EntryKind.LOG_STARTED, actor=actor, log=OBSERVATIONS)
