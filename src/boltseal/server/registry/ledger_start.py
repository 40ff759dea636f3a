"""What a start does with the logs of a store: compare, ask the witnesses, begin, sign. A doubt lets the store take no entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx2
import structlog

from boltseal.client.witness import WitnessClient
from boltseal.errors import BoltsealError, Unavailable
from boltseal.ledger.note import VerifierKey
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.sequencer import start_ledger, start_observations
from boltseal.server.registry.tag_check import TAGS_DIFFER, StoreCheck
from boltseal.server.registry.witnesses import Witnesses, WitnessState
from boltseal.server.settings import Settings
from boltseal.server.storage.ledger_doubts import WITNESSES
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, MARK, TAGS, Snapshot
from boltseal.server.storage.witness_statements import WitnessStatements

CHECKED_AT_START: Final = 500_000
"""The number of entries up to which a start waits until all of them are checked: some seconds. More are checked afterwards."""

_log = structlog.get_logger(__name__)


def check_at_start(store: OpenStore, settings: Settings) -> None:
    """Compare all tags with the ledger, and wait for the witnesses before anything is written."""
    try:
        if store.doubts.adopt_files():
            check_ledger(store)
        WitnessStatements(store.database, store.keys.folder).adopt_file()
        small = store.database.read_and_wait(ledger_store.size) <= CHECKED_AT_START
        if small and not store.doubts.has(TAGS):
            check_tags(store)
        if not settings.server.read_only:
            _await_witnesses(store, settings)
    except Unavailable as doubt:  # a key, or a part of the database, can't be read: pulls may work
        _freeze(store, store.integrator, doubt)


def _await_witnesses(store: OpenStore, settings: Settings) -> None:
    """Let a signed ledger take no entries before its witnesses were asked: this may be an old copy of data and keys."""
    WitnessStatements(store.database, store.keys.folder).keep_only(
        [str(VerifierKey.parse(each.key)) for each in settings.witness]
    )
    signed = store.database.read_and_wait(ledger_tree.head)
    doubted = store.doubts.has(WITNESSES)
    if doubted and not settings.witness:
        store.doubts.clear(WITNESSES)
        store.database.doubts.pop(LEDGER.name, None)
        check_ledger(store)
    elif settings.witness and not doubted and signed is not None and signed.size:
        store.doubts.put(
            WITNESSES,
            "the witnesses have not confirmed yet, since this server was started, that the data is not an old copy",
        )
        check_ledger(store)


async def ask_witnesses(
    store: OpenStore, settings: Settings, app: httpx2.AsyncBaseTransport | None, on_agreed: Callable[[], None]
) -> Witnesses | None:
    """Compare the ledger with its witnesses before any write: a witness may have seen more than this store has.

    Return them, None if the settings name none. `app`: responds for every witness; None: over the network.
    `on_agreed`: called in a thread once enough of them agree.
    """
    states = [
        WitnessState(WitnessClient(each.url, monitoring=each.monitoring, app=app), VerifierKey.parse(each.key))
        for each in settings.witness
    ]
    if not states:
        return None
    witnesses = Witnesses(
        store.database,
        store.keys,
        states,
        quorum=settings.ledger.witness_quorum,
        on_agreed=on_agreed,
    )
    await witnesses.at_start()
    check_ledger(store)
    return witnesses


def resume(store: OpenStore, settings: Settings) -> None:
    """Do what a start does with the logs, after the witnesses agreed. Called in a thread."""
    store.database.doubts.pop(LEDGER.name, None)
    check_ledger(store)
    try:
        begin_ledger(store, settings)
        if store.database.frozen is None:
            store.integrator.begin()
            sign(store, store.integrator)
        begin_observations(store, settings)
    except BoltsealError as error:
        _log.error("the logs were not begun", reason=error.message)


def sign(store: OpenStore, integrator: Integrator) -> None:
    """Sign new entries. If this fails, the next process that can signs them."""
    try:
        integrator.integrate()
    except LedgerInDoubt as doubt:
        _freeze(store, integrator, doubt)
    except BoltsealError as error:
        _log.warning("signing the ledger failed", log=integrator.log.name, reason=error.message)


def _freeze(store: OpenStore, integrator: Integrator, doubt: BoltsealError) -> None:
    store.database.doubts[integrator.log.name] = doubt.message
    _log.error("the ledger cannot be trusted: writes are refused", log=integrator.log.name, reason=doubt.message)


def begin_observations(store: OpenStore, settings: Settings) -> None:
    """Begin the log of observations if there are upstreams; a read-only server records none."""
    doubted = store.database.frozen is not None or store.observing.log.name in store.database.doubts
    if not settings.upstreams or settings.server.read_only or doubted:
        return
    store.database.write_and_wait(lambda tx: start_observations(tx, actor="boltseal"))
    store.observing.begin()
    sign(store, store.observing)


def begin_ledger(store: OpenStore, settings: Settings) -> None:
    """Begin a new ledger, and record new rules. A read-only server does not, as it applies none."""
    if store.database.frozen is not None or (settings.server.read_only and store.database.read_and_wait(_has_ledger)):
        return
    origin, rules = ledger_name(settings), settings.rules.canonical()
    store.database.write_and_wait(lambda tx: start_ledger(tx, origin=origin, rules=rules, actor="boltseal"))


def check_tags(store: OpenStore, pause: Callable[[], None] = lambda: None) -> None:
    """Compare all tags with the ledger, and freeze the store if they differ."""
    problem = StoreCheck(store.database, pause).problem()
    if problem is None:
        return
    _log.error("the tags differ from the ledger: writes are refused", reason=problem)
    try:
        store.integrator.doubt(TAGS, TAGS_DIFFER)
    except Unavailable as error:  # this process is frozen nevertheless
        _log.error("the doubt about the ledger can't be kept", reason=error.message)
    _freeze(store, store.integrator, LedgerInDoubt(TAGS_DIFFER))


def _has_ledger(snapshot: Snapshot) -> bool:
    return ledger_store.head(snapshot) is not None


def check_connection(store: OpenStore, snapshot: Snapshot) -> None:
    """Let the store take no entries if the database of a new connection lacks some that were signed.

    The signer compares again soon, and lets it take entries when everything is there.
    """
    if store.database.frozen is not None:
        return
    for each in store.integrators:
        try:
            each.check_connection(snapshot)
        except LedgerInDoubt as doubt:
            _freeze(store, each, doubt)
        except LedgerKeyUnreadable as error:
            store.database.doubts[f"{each.log.name}{MARK}"] = error.message


def check_ledger(store: OpenStore) -> None:
    """Freeze the store, or its log of observations, if it is not or may not be what was signed."""
    for each in store.integrators:
        try:
            each.check()
        except Unavailable as doubt:  # also an unreadable key: the data cannot be verified without it
            _freeze(store, each, doubt)


def ledger_name(settings: Settings) -> str:
    """Return the configured name of the ledger, or the name of this server, for the first start."""
    if settings.ledger.origin is not None:
        return settings.ledger.origin
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    return f"localhost:{settings.server.address.port}" if settings.server.address.loopback else settings.server.listen
