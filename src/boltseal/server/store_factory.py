"""Opens the store of one data folder: settings in; database, blobs, keys and the registry over them out.

    open_store   for commands on the data folder, beside a running server or without one
    examine_store, collect_store   for two commands that need less than a whole store
    prepare      before the workers start: creates or migrates the data folder and begins the ledger
    begin        in a worker: as `prepare`, and the store stays open

Only this module and `app` build these objects; `app` serves them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from boltseal.errors import Full, Invalid, Unavailable, quote
from boltseal.policy.durations import Duration
from boltseal.server.mirror.retention import retain
from boltseal.server.registry import build_registry
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger_start import (
    begin_ledger,
    begin_observations,
    check_at_start,
    check_connection,
    check_ledger,
    sign,
)
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.quota_checks import QuotaChecks
from boltseal.server.registry.sequencer import ClockStepped, LedgerFrozen
from boltseal.server.settings import Settings
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.blobs.blob_stores import (
    check_place,
    open_blob_store,
    open_owner,
    open_tiles,
    open_to_examine,
)
from boltseal.server.storage.bucket_owner import refuse_rebuilding
from boltseal.server.storage.clock_guard import ClockGuard
from boltseal.server.storage.coordination.factory import check_locks, open_leases
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.fsck import Examined, Progress, examine
from boltseal.server.storage.fsck_position import FsckPosition
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import GarbageItem, collect, collect_uploads, correct_usage
from boltseal.server.storage.mark_factory import check_mark, open_keys
from boltseal.server.storage.metadata import account_table, name_lists
from boltseal.server.storage.metadata.migrate import FORMAT, WORKABLE_FORMAT
from boltseal.server.storage.metadata.protocol import (
    LEDGER,
    OBSERVATIONS,
    AccountRow,
    Metadata,
    Snapshot,
)
from boltseal.server.storage.users import UserFile, UsersInvalid

Clock = Callable[[], int]


def now_us() -> int:
    """Return the current time in microseconds since the epoch."""
    return time.time_ns() // 1000


class UpstreamNameTaken(Invalid):
    """A local repository has a name that belongs to an upstream. The server does not start."""


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
                sign(store, each)
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
        owner = None if database is None or not with_keys else open_owner(settings, database)
        return examine(snapshot, blobs.maintenance, progress, keys, hashed=hashed, position=position, owner=owner)


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
        now_us = store.database.now_us()
        if not dry_run:
            refuse_collection(store, now_us)
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


def refuse_collection(store: OpenStore, now_us: int) -> None:
    """Raise why nothing may be deleted now: RebuildUnfinished, LedgerFrozen, ClockStepped. Blocks."""
    store.database.read_and_wait(refuse_rebuilding)
    if store.database.frozen is not None:  # content of lost entries looks unreferenced
        raise LedgerFrozen(f"nothing is deleted: {store.database.frozen}")
    clock_doubt = store.database.clock_guard(now_us)
    if clock_doubt is not None:  # everything looks old
        raise ClockStepped(f"nothing is deleted: {clock_doubt}")


def prepare(settings: Settings, *, clock: Clock = now_us) -> None:
    """Create or migrate the data folder, begin the ledger, and record new rules."""
    store = begin(settings, clock, check=True)
    store.close()


def begin(
    settings: Settings, clock: Clock, guard: ClockGuard | None = None, *, check: bool = False, serves: bool = False
) -> OpenStore:
    """Open the store of a starting server: created or migrated, its logs begun and signed. The caller closes it.

    `guard`: watches the clock while the server runs. `check`: compare all tags with the ledger (`registry.tag_check`); once
    in a start, not in every worker. `serves`: this process answers clients, which other servers must know.

    Raises: FormatInvalid, UpstreamNameTaken, Unavailable.
    """
    if check:
        check_mark(settings.storage)
        check_locks(settings.storage)
    metadata_factory.prepare_metadata(settings.server.data, settings.storage)
    store = _open(settings, clock, serves=serves)
    store.database.after_connect = partial(check_connection, store)
    _watch_clock(store.database, guard)
    try:
        check_place(settings, store.database, claim=check)
        _check_reserved(store, settings)
        if check:
            _note_users(store.database, settings)
            check_at_start(store, settings)
        begin_ledger(store, settings)
        if store.database.frozen is None:
            store.integrator.begin()
            sign(store, store.integrator)
        begin_observations(store, settings)
    except BaseException:
        store.close()
        raise
    return store


def _note_users(database: Metadata, settings: Settings) -> None:
    """Record that there are users, where only the users' file has some. A file that can't be read has some."""
    try:
        in_file = bool(UserFile(settings.htpasswd).current().hashes)
    except UsersInvalid:
        in_file = True
    if in_file and not database.read_and_wait(account_table.existed):
        # The data is being moved, or the disk is full: each request that sees the users tries again.
        with suppress(Unavailable, Full):
            database.write_and_wait(account_table.note_existed)


def _watch_clock(database: Metadata, guard: ClockGuard | None) -> None:
    if guard is not None:
        database.clock_guard = guard.doubt


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
    return name_lists.repositories_below(snapshot, prefix)


def bounds(settings: Settings) -> QuotaChecks:
    """Return the limits on what users may add."""
    return QuotaChecks(settings.quotas, settings.auth.max_uploads_per_user, settings.server.max_referrers_per_image)


def _open(settings: Settings, clock: Clock, *, serves: bool = False) -> OpenStore:
    data = settings.server.data
    database = _open_metadata(settings, clock, serves=serves)
    blobs = open_blob_store(settings, database)
    reserve = DiskReserve(data, int(settings.server.disk_reserve_bytes))
    keys = open_keys(settings.keys, settings.storage)
    tiles = {log: open_tiles(settings, log) for log in (LEDGER, OBSERVATIONS)}
    owner = open_owner(settings, database)
    integrator = Integrator(database, keys, objects=tiles[LEDGER], owner=owner)
    observing = Integrator(database, keys.of(OBSERVATIONS.name), OBSERVATIONS, tiles[OBSERVATIONS], owner)
    registry = build_registry(database, blobs, settings.rules, reserve, bounds(settings), tiles=tiles)
    store = OpenStore(data, database, blobs, registry, keys, integrator, observing, tiles, owner)
    check_ledger(store)
    return store


def _open_metadata(settings: Settings, clock: Clock, *, serves: bool = False) -> Metadata:
    """Open the database. PostgreSQL has a clock for all servers, which a test's clock replaces."""
    of_database = settings.storage.database is not None and clock is now_us
    stale_s = Duration.parse(settings.server.serve_stale).seconds
    return metadata_factory.open_metadata(
        settings.server.data, settings.storage, None if of_database else clock, stale_s=stale_s, serves=serves
    )
