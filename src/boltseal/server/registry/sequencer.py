"""Appends entries to a log: assigns index, time and salt, and links the previous entry of the same tag.

The tag writer calls this inside the transaction that changes the tag, so entry and change are committed together. The
observations of upstreams' tags are appended the same way to a log of their own, which has no other entries.

- Indices have no gaps: the head row, locked by the transaction, has the next one.
- Time is the clock's, or one microsecond after the last entry if the clock is behind: times always increase.
- While the clock cannot be right (`ledger.clock`), nothing is written and the server is not ready. An entry of kind
  `recovered` lets time step back to a clock that is behind.
- A log that may not match its checkpoint takes no entry (`integrator`).
- Rules that allowed a change are those that the ledger recorded last, or the entry is refused: several servers share a
  ledger, and one with a former configuration gives no tag by it.
- The salt prevents guessing an entry from its hash, so hash tiles can be public.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Final

from boltseal.errors import Unavailable
from boltseal.ledger.clock import is_behind, next_time_us
from boltseal.ledger.entry import OF_EVERY_LOG, OF_OBSERVATIONS, Entry, EntryKind, encode
from boltseal.oci.reference import Repository, Tag
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.ledger_store import LedgerHead
from boltseal.server.storage.metadata.protocol import LEDGER, MARK, OBSERVATIONS, TAGS, Log, UnitOfWork

RULES_SHOWN_BYTES: Final = 60_000
OBSERVATIONS_ORIGIN: Final = "/observations"
"""The suffix that the log of observations adds to the name of the ledger."""


class ClockBehind(Unavailable):
    """The clock of this machine is more than five minutes behind the ledger's last entry."""


class ClockStepped(Unavailable):
    """The clock of this machine has stepped forward by more than an hour while the server ran."""


class LedgerMissing(Unavailable):
    """The log was never started in this store: `start_ledger` did not run."""


class RulesOutdated(Unavailable):
    """This process decides by other rules than those that the ledger recorded last. Nothing was changed."""


class LedgerFrozen(Unavailable):
    """The log may not match its checkpoint, so it takes no entries."""


def check_clock(last_time_us: int, now_us: int) -> None:
    """Check that the clock is at most five minutes behind the ledger's last entry.

    Raises:
        ClockBehind: it is further behind.
    """
    if is_behind(last_time_us, now_us):
        raise ClockBehind(
            f"the clock of the registry is {(last_time_us - now_us) // 1_000_000} s behind its ledger's last entry: nothing is "
            "written until the clock is corrected; if it is right and that entry is from the future, run "
            "`boltseal ledger recover --clock`"
        )


def check_recordable(tx: UnitOfWork, log: Log) -> None:
    """Check that a log takes entries.

    Raises:
        LedgerFrozen: it may not match its checkpoint.
    """
    doubt = tx.doubts.get(log.name) or (tx.doubts.get(TAGS) if log is LEDGER else None)
    doubt = doubt or tx.doubts.get(f"{log.name}{MARK}")
    if doubt is not None:
        raise LedgerFrozen(f"the log takes no entries: {doubt}")


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
    decided_by: str | None = None,
) -> int:
    """Write one entry and return its index.

    `was`: the digest before the change. `previous`: the index of the tag's last entry in this log, -1 for none.
    `decided_by`: the rules by which the change was allowed, as `RuleSet.canonical`; None for a change that needs none.

    Raises:
        RulesOutdated: another server, or this one since, recorded other rules than `decided_by`.
        LedgerFrozen: the log may not match its checkpoint.
        LedgerMissing: the log was never started.
        ClockBehind: the clock is more than five minutes behind the last entry, and the kind is not `recovered`.
        ClockStepped: the clock has stepped forward.
    """
    if kind not in OF_EVERY_LOG and (kind in OF_OBSERVATIONS) != (log is OBSERVATIONS):
        raise AssertionError(f"{log.name} takes no entries of kind {kind}")
    head = _lock_head(tx, log)
    if decided_by is not None and decided_by != head.rules:
        raise RulesOutdated(
            "this process does not have the rules that the ledger recorded last: nothing was changed; try again, and if that "
            "fails for longer than a reload takes, give every server of this registry the same rules and restart it, or give "
            "a command the server's configuration with --config"
        )
    time_us = _time_of(kind, head.last_time_us, tx.now_us)
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
    ledger_store.append_entry(tx, head.size, entry, encode(entry), log)
    tx.appended.add(log.name)
    return head.size


def _time_of(kind: EntryKind, last_time_us: int, now_us: int) -> int:
    """Return the time of an entry after one of `last_time_us`. Raises: ClockBehind."""
    if kind is EntryKind.RECOVERED and is_behind(last_time_us, now_us):
        return now_us
    check_clock(last_time_us, now_us)
    return next_time_us(last_time_us, now_us)


def _lock_head(tx: UnitOfWork, log: Log) -> LedgerHead:
    """Lock a log that takes an entry now, and return its size and last time. Raises as `append`."""
    check_recordable(tx, log)
    if tx.clock_doubt is not None:
        raise ClockStepped(tx.clock_doubt)
    head = ledger_store.lock_head(tx, log)
    if head is None:
        raise LedgerMissing(
            f"the registry's {log.name} was never started: nothing was changed; start `boltseal serve` once"
        )
    return head


def start_ledger(tx: UnitOfWork, *, origin: str, rules: str, actor: str) -> str:
    """Start the ledger if this store has none, and record the rules if they differ from the last recorded ones.

    Return the ledger's origin. The first start fixes it, whatever the configuration says later.
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
    """Start the log of observations if this store has none. Its origin is the ledger's with a suffix.

    Raises:
        LedgerMissing: the ledger was never started.
    """
    if ledger_store.lock_head(tx, OBSERVATIONS) is not None:
        return
    head = ledger_store.lock_head(tx)
    if head is None:
        raise LedgerMissing("the registry's ledger was never started: nothing was changed; start `boltseal serve` once")
    ledger_store.start(tx, f"{head.origin}{OBSERVATIONS_ORIGIN}", OBSERVATIONS)
    append(tx, EntryKind.LOG_STARTED, actor=actor, log=OBSERVATIONS)
