"""Opens the store of one data folder: settings in; database, blobs, keys and the registry over them out.

    open_store   for commands on the data folder, beside a running server or without one
    examine_store, collect_store   for two commands that need less than a whole store
    only_server  keeps a second server from the data folder
    prepare      before the workers start: creates or migrates the data folder and begins the ledger
    begin        in a worker: as `prepare`, and the store stays open

Only this module and `app` build these objects; `app` serves them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from boltseal.errors import BoltsealError, Invalid, Unavailable, quote
from boltseal.ledger.note import VerifierKey
from boltseal.server.mirror.retention import retain
from boltseal.server.registry import Registry, build_registry
from boltseal.server.registry.integrator import Integrator, LedgerInDoubt
from boltseal.server.registry.quota_checks import QuotaChecks
from boltseal.server.registry.sequencer import ClockStepped, LedgerFrozen, start_ledger, start_observations
from boltseal.server.registry.tag_check import TAGS_DIFFER, StoreCheck
from boltseal.server.settings import Settings
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.blobs.blob_stores import check_place, open_blob_store, open_tiles, open_to_examine
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.bucket_owner import UNFINISHED, RebuildUnfinished
from boltseal.server.storage.clock_guard import ClockGuard
from boltseal.server.storage.coordination.factory import check_locks, open_leases
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.fsck import Examined, Progress, examine
from boltseal.server.storage.fsck_position import FsckPosition
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import GarbageItem, collect, collect_uploads, correct_usage
from boltseal.server.storage.ledger_key import WITNESSES, LedgerKeys
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.mark_factory import check_mark, open_keys
from boltseal.server.storage.metadata import account_table, bucket_rows, ledger_store, ledger_tree, queries
from boltseal.server.storage.metadata.migrate import FORMAT, WORKABLE_FORMAT, create_data
from boltseal.server.storage.metadata.protocol import (
    LEDGER,
    MARK,
    OBSERVATIONS,
    TAGS,
    AccountRow,
    Log,
    Metadata,
    Snapshot,
)
from boltseal.server.storage.object_tiles import ObjectTiles
from boltseal.server.storage.witness_statements import WitnessStatements

Clock = Callable[[], int]

SERVER_LEASE: Final = "server"
CHECKED_AT_START: Final = 500_000
"""The number of entries up to which a start waits until all of them are checked: some seconds. More are checked afterwards."""
CHECK_PAUSE_S: Final = 0.05
"""The pause between batches while all tags are compared with the ledger, so that requests go on."""
OTHER_SERVER_ENDS_S: Final = 2.0
"""How long a server waits for one that is just ending, or whose workers are, after `kill -9`."""

_log = structlog.get_logger(__name__)


def now_us() -> int:
    """Return the current time in microseconds since the epoch."""
    return time.time_ns() // 1000


class UpstreamNameTaken(Invalid):
    """A local repository has a name that belongs to an upstream. The server does not start."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """An open data folder. `observing`: signs the log of observations of upstreams' tags."""

    data: Path
    database: Metadata
    blobs: BlobStore
    registry: Registry
    keys: LedgerKeys
    integrator: Integrator
    observing: Integrator
    tiles: Mapping[Log, ObjectTiles | None]

    @property
    def integrators(self) -> tuple[Integrator, ...]:
        """The integrators that sign the store's logs: the ledger and the log of observations."""
        return self.integrator, self.observing

    @property
    def keys_lost(self) -> bool:
        """Whether the folder of keys is not beside the data, and so perhaps a users' file is missing too."""
        if self.database.frozen is None:
            return False
        try:
            return self.keys.key() is None
        except Unavailable:  # the key can't be read: the folder is there, and with it the users' file if there is one
            return not self.keys.folder.is_dir()

    def close(self) -> None:
        """Finish pending writes and close everything. Idempotent."""
        self.database.close()
        self.blobs.close()


@contextmanager
def open_store(settings: Settings, *, clock: Clock = now_us, oldest: int = WORKABLE_FORMAT) -> Iterator[OpenStore]:
    """Open an existing data folder, beside a running server or without one. Opening changes nothing.

    `oldest`: the oldest data format that has all tables which the caller needs.
    """
    metadata_factory.check_metadata(settings.server.data, settings.storage, oldest=oldest)
    store = _open(settings, clock)
    _watch_clock(store.database, ClockGuard.beside(settings.server.data))
    appended = {each.log.name: threading.Event() for each in store.integrators}
    store.database.after_append.update({name: event.set for name, event in appended.items()})
    try:
        yield store
    finally:
        for each in store.integrators:
            if appended[each.log.name].is_set():
                _sign(store, each)
        store.close()


def has_accounts(settings: Settings) -> bool:
    """Return whether there is a data folder whose database has the table of users. Raises: FormatInvalid."""
    return metadata_factory.has_accounts(settings.server.data, settings.storage)


def read_accounts(settings: Settings) -> list[AccountRow]:
    """Return the users of the database, and change nothing. Raises: Unavailable."""
    with metadata_factory.open_snapshot(settings.server.data, settings.storage) as snapshot:
        return account_table.all_accounts(snapshot)


@contextmanager
def open_metadata(settings: Settings, *, clock: Clock = now_us) -> Iterator[Metadata]:
    """Open only the database of an existing data folder, beside a running server or without one."""
    database = _open_metadata(settings, clock)
    _watch_clock(database, ClockGuard.beside(settings.server.data))
    try:
        yield database
    finally:
        database.close()


def examine_store(
    settings: Settings,
    progress: Progress,
    *,
    with_keys: bool = True,
    hashed: bool = False,
    position: FsckPosition | None = None,
) -> Examined:
    """Check everything in a data folder without changing it. Raises: FormatInvalid, Unavailable, OSError.

    `with_keys`: also check who signed the ledger. A backup that was just restored has no keys yet.
    `hashed`: the blobs were hashed a moment ago. `position`: where to continue.
    """
    data = settings.server.data
    metadata_factory.check_metadata(data, settings.storage)
    with ExitStack() as closed:
        database = None if settings.storage.blobs is None else closed.enter_context(open_metadata(settings))
        blobs = open_to_examine(settings, database)
        closed.callback(blobs.close)
        keys = open_keys(settings.keys, settings.storage) if with_keys else None
        snapshot = metadata_factory.open_snapshot(data, settings.storage)
        return examine(snapshot, blobs.maintenance, progress, keys, hashed=hashed, position=position)


def collect_store(
    settings: Settings,
    *,
    dry_run: bool,
    full: bool = False,
    progress: Progress = lambda *_: None,
    clock: Clock = now_us,
) -> Iterator[GarbageItem]:
    """Delete unreferenced content of a data folder, or only list it with `dry_run`. Yields each item.

    Mirrored images that have expired under the terms of their upstream are deleted first. `full`: also look for content that is
    in no queue, by a comparison of everything, and correct the totals of users.

    Raises:
        FormatInvalid, Unavailable: as `open_store`.
        ClockStepped: the clock may be wrong; nothing is deleted.
        RebuildUnfinished: not all rows were restored; nothing is deleted.
        LedgerFrozen: the store may not be what its ledger signed; nothing is deleted.
    """
    with open_store(settings, clock=clock, oldest=FORMAT) as store:
        if store.database.frozen is not None and not dry_run:  # content of lost entries looks unreferenced
            raise LedgerFrozen(f"nothing is deleted: {store.database.frozen}")
        owner = store.database.read_and_wait(bucket_rows.owner)
        if owner is not None and owner.rebuilding and not dry_run:  # blobs have no row of a repository yet
            raise RebuildUnfinished(f"nothing is deleted: {UNFINISHED}")
        now_us = store.database.now_us()
        clock_doubt = store.database.clock_guard(now_us)
        if clock_doubt is not None and not dry_run:  # everything looks old
            raise ClockStepped(f"nothing is deleted: {clock_doubt}")
        blobs = store.blobs
        yield from retain(store.database, settings.upstreams, now_us, dry_run=dry_run)
        if full:
            comparison = FullCollection(store.database, blobs.maintenance, blobs.upkeep, now_us, progress)
            yield from comparison.find_all(dry_run=dry_run)
        if full and dry_run:  # what is due was found by the comparison
            yield from collect_uploads(store.database, blobs.upload_cleanup, now_us, dry_run=True)
        else:
            yield from collect(store.database, blobs.maintenance, blobs.upload_cleanup, now_us, dry_run=dry_run)
        if not dry_run and blobs.upkeep is not None:
            blobs.upkeep.run(store.database.now_us())
        if not dry_run and full:
            leases = open_leases(settings.server.data, settings.storage)
            try:
                correct_usage(store.database, leases)
            finally:
                leases.close()


@contextmanager
def only_server(data: Path, wait_s: float = OTHER_SERVER_ENDS_S) -> Iterator[None]:
    """Hold a data folder for one server inside the block; its worker processes share the lease. Creates the folder.

    Raises: FormatInvalid, LockUnusable, Unavailable; Invalid: another server has it after `wait_s` seconds.
    """
    create_data(data)
    leases = FileLeases(data)
    until_s = time.monotonic() + wait_s
    try:
        while leases.acquire(SERVER_LEASE) is None:
            if time.monotonic() >= until_s:
                raise Invalid(
                    f"another boltseal server uses the data folder {data}: end it first, or choose another folder with --data"
                )
            time.sleep(0.05)
        yield
    finally:
        leases.close()


def prepare(settings: Settings, *, clock: Clock = now_us) -> None:
    """Create or migrate the data folder, begin the ledger, and record new rules."""
    store = begin(settings, clock, check=True)
    store.close()


def begin(settings: Settings, clock: Clock, guard: ClockGuard | None = None, *, check: bool = False) -> OpenStore:
    """Open the store of a starting server: created or migrated, its logs begun and signed. The caller closes it.

    `guard`: watches the clock while the server runs. `check`: compare all tags with the ledger (`registry.tag_check`); once
    in a start, not in every worker.

    Raises: FormatInvalid, UpstreamNameTaken, Unavailable.
    """
    if check:
        check_mark(settings.storage)
        check_locks(settings.storage)
    metadata_factory.prepare_metadata(settings.server.data, settings.storage)
    store = _open(settings, clock)
    store.database.after_connect = partial(_check_connection, store)
    _watch_clock(store.database, guard)
    try:
        check_place(settings, store.database, claim=check)
        _check_reserved(store, settings)
        if check:
            _check_at_start(store, settings)
        begin_ledger(store, settings)
        if store.database.frozen is None:
            store.integrator.begin()
            _sign(store, store.integrator)
        _begin_observations(store, settings)
    except BaseException:
        store.close()
        raise
    return store


def _watch_clock(database: Metadata, guard: ClockGuard | None) -> None:
    if guard is not None:
        database.clock_guard = guard.doubt


def _check_at_start(store: OpenStore, settings: Settings) -> None:
    """Compare all tags with the ledger, and wait for the witnesses before anything is written."""
    try:
        small = store.database.read_and_wait(ledger_store.size) <= CHECKED_AT_START
        if small and not store.keys.doubted(TAGS):
            check_tags(store)
        if not settings.server.read_only:
            _await_witnesses(store, settings)
    except Unavailable as doubt:  # a key, or a part of the database, can't be read: pulls may work
        _freeze(store, store.integrator, doubt)


def _await_witnesses(store: OpenStore, settings: Settings) -> None:
    """Let a signed ledger take no entries before its witnesses were asked: this may be an old copy of data and keys."""
    WitnessStatements(store.keys).keep_only([str(VerifierKey.parse(each.key)) for each in settings.witness])
    signed = store.database.read_and_wait(ledger_tree.head)
    doubted = store.keys.doubted(WITNESSES)
    if doubted and not settings.witness:
        store.keys.clear_doubt(WITNESSES)
        store.database.doubts.pop(LEDGER.name, None)
        check_ledger(store)
    elif settings.witness and not doubted and signed is not None and signed.size:
        store.keys.put_doubt(
            WITNESSES,
            "the witnesses have not confirmed yet, since this server was started, that the data is not an old copy",
        )
        check_ledger(store)


def resume(store: OpenStore, settings: Settings) -> None:
    """Do what a start does with the logs, after the witnesses agreed. Called in a thread."""
    store.database.doubts.pop(LEDGER.name, None)
    check_ledger(store)
    try:
        begin_ledger(store, settings)
        if store.database.frozen is None:
            store.integrator.begin()
            _sign(store, store.integrator)
        _begin_observations(store, settings)
    except BoltsealError as error:
        _log.error("the logs were not begun", reason=error.message)


def _check_reserved(store: OpenStore, settings: Settings) -> None:
    """Raise UpstreamNameTaken if a local repository has a name under that of an upstream: it would be ambiguous."""
    for terms in settings.upstreams:
        repository = settings.name_resolver.reserved(store.database.read_and_wait(partial(_below, f"{terms.name}/")))
        if repository is not None:
            raise UpstreamNameTaken(
                f"[[upstream]] {terms.name} cannot serve names under {terms.name}/: the local repository "
                f"{quote(repository)} has such a name; rename the upstream, or remove it"
            )


def _below(prefix: str, snapshot: Snapshot) -> list[tuple[str, str | None]]:
    return queries.repositories_below(snapshot, prefix)


def _sign(store: OpenStore, integrator: Integrator) -> None:
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


def _begin_observations(store: OpenStore, settings: Settings) -> None:
    """Begin the log of observations if there are upstreams; a read-only server records none."""
    doubted = store.database.frozen is not None or store.observing.log.name in store.database.doubts
    if not settings.upstreams or settings.server.read_only or doubted:
        return
    store.database.write_and_wait(lambda tx: start_observations(tx, actor="boltseal"))
    store.observing.begin()
    _sign(store, store.observing)


def begin_ledger(store: OpenStore, settings: Settings) -> None:
    """Begin a new ledger, and record new rules. A read-only server does not, as it applies none."""
    if store.database.frozen is not None or (settings.server.read_only and store.database.read_and_wait(_has_ledger)):
        return
    origin, rules = _origin(settings), settings.rules.canonical()
    store.database.write_and_wait(lambda tx: start_ledger(tx, origin=origin, rules=rules, actor="boltseal"))


def check_tags(store: OpenStore, pause: Callable[[], None] = lambda: None) -> None:
    """Compare all tags with the ledger, and freeze the store if they differ."""
    problem = StoreCheck(store.database, pause).problem()
    if problem is None:
        return
    _log.error("the tags differ from the ledger: writes are refused", reason=problem)
    try:
        store.integrator.doubt(TAGS, TAGS_DIFFER)
    except LedgerKeyUnreadable as error:  # this process is frozen nevertheless
        _log.error("the doubt about the ledger can't be kept", reason=error.message)
    _freeze(store, store.integrator, LedgerInDoubt(TAGS_DIFFER))


def check_tags_alone(store: OpenStore, leases: Leases) -> None:
    """Compare all tags with the ledger while the server runs, with pauses, unless another process does it."""
    lease = leases.acquire("tag-check")
    if lease is None:
        return
    try:
        if store.database.frozen is None:
            check_tags(store, pause=lambda: time.sleep(CHECK_PAUSE_S))
    finally:
        lease.release()


def _has_ledger(snapshot: Snapshot) -> bool:
    return ledger_store.head(snapshot) is not None


def bounds(settings: Settings) -> QuotaChecks:
    """Return the limits on what users may add."""
    return QuotaChecks(settings.quotas, settings.auth.max_uploads_per_user, settings.server.max_referrers_per_image)


def _open(settings: Settings, clock: Clock) -> OpenStore:
    data = settings.server.data
    database = _open_metadata(settings, clock)
    blobs = open_blob_store(settings, database)
    reserve = DiskReserve(data, int(settings.server.disk_reserve_bytes))
    keys = open_keys(settings.keys, settings.storage)
    tiles = {log: open_tiles(settings, log) for log in (LEDGER, OBSERVATIONS)}
    integrator = Integrator(database, keys, objects=tiles[LEDGER])
    observing = Integrator(database, keys.of(OBSERVATIONS.name), OBSERVATIONS, tiles[OBSERVATIONS])
    registry = build_registry(database, blobs, settings.rules, reserve, bounds(settings), tiles=tiles)
    store = OpenStore(data, database, blobs, registry, keys, integrator, observing, tiles)
    check_ledger(store)
    return store


def _open_metadata(settings: Settings, clock: Clock) -> Metadata:
    """Open the database. PostgreSQL has a clock for all servers, which a test's clock replaces."""
    of_database = settings.storage.database is not None and clock is now_us
    return metadata_factory.open_metadata(settings.server.data, settings.storage, None if of_database else clock)


def _check_connection(store: OpenStore, snapshot: Snapshot) -> None:
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


def _origin(settings: Settings) -> str:
    """Return the configured name of the ledger, or the name of this server, for the first start."""
    if settings.ledger.origin is not None:
        return settings.ledger.origin
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    return f"localhost:{settings.server.address.port}" if settings.server.address.loopback else settings.server.listen
