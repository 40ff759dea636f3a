"""The only place that builds objects: settings in, an open store or a whole ASGI application out.

    create_app   for a server's worker: its lifespan opens the store, runs the janitor, closes the store
    open_store   for the verbs that work on the data folder, beside a running server or without one
    examine_store, collect_store   the same for two verbs that need less than a whole store
    prepare      before the workers start: makes or migrates the data folder and begins the ledger, once

Nothing is opened before the lifespan begins, so that an application can be built anywhere and twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from starlette.applications import Starlette

from boltseal.api.asgi import DistributionApi
from boltseal.api.call import BodyLimits
from boltseal.api.gate import Gate
from boltseal.api.health import HEALTH_PATH, READY_PATH, Health
from boltseal.api.ledger import PREFIX as LEDGER_PREFIX
from boltseal.api.ledger import LedgerApi
from boltseal.api.metrics import Metrics
from boltseal.api.observer import Observer, Write
from boltseal.api.settings import ApiSettings
from boltseal.api.token import TokenService
from boltseal.client.witness import WitnessClient
from boltseal.errors import BoltsealError, Unavailable
from boltseal.ledger.note import VerifierKey
from boltseal.registry import Registry, build_registry
from boltseal.registry.access import Access
from boltseal.registry.bounds import Bounds
from boltseal.registry.integrator import Integrator, LedgerDoubt
from boltseal.registry.logins import Logins
from boltseal.registry.readiness import Readiness, readiness
from boltseal.registry.sequencer import LedgerFrozen, start_ledger
from boltseal.registry.signer import Signer
from boltseal.registry.tokens import Tokens
from boltseal.registry.witnesses import Witness, Witnesses
from boltseal.storage import ledger_store
from boltseal.storage.blobs_local import LocalBlobs
from boltseal.storage.certificate import check_certificate
from boltseal.storage.collect import Item, collect, collect_uploads
from boltseal.storage.database import Database, Transaction, open_database
from boltseal.storage.fsck import Examined, Progress, examine
from boltseal.storage.keyfile import KeyFile
from boltseal.storage.ledger_key import LedgerKeys
from boltseal.storage.migrate import DATABASE_NAME, GENERATION_NAME, check_data, prepare_data
from boltseal.storage.room import Room
from boltseal.storage.totals import RunFolder
from boltseal.storage.users import UserFile

if TYPE_CHECKING:
    import httpx2
    from sqlalchemy import Connection
    from starlette.types import ASGIApp, Receive, Scope, Send

    from boltseal.settings import Settings

Clock = Callable[[], int]

METRICS_PATH: Final = "/metrics"
TOKEN_PATH: Final = "/token"  # noqa: S105 - a path, no secret
JANITOR_EVERY_S: Final = 3600.0
READ_ONLY: Final = "this registry is read-only at present: pulls go on, nothing can be pushed or deleted"

_log = structlog.get_logger(__name__)


def now_us() -> int:
    """The time: microseconds since the epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Store:
    """An open data folder."""

    data: Path
    database: Database
    blobs: LocalBlobs
    registry: Registry
    keys: LedgerKeys
    integrator: Integrator

    def close(self) -> None:
        """Finish what is being written, then let go of everything. Idempotent."""
        self.database.close()
        self.blobs.close()


@contextmanager
def open_store(settings: Settings, *, clock: Clock = now_us) -> Iterator[Store]:
    """Open a data folder that exists, beside a running server or without one. Changes nothing by itself."""
    check_data(settings.server.data)
    store = _open(settings, clock)
    appended = threading.Event()
    store.database.after_append = appended.set
    try:
        yield store
    finally:
        if appended.is_set():
            _sign(store)
        store.close()


def examine_store(settings: Settings, progress: Progress, *, clock: Clock = now_us, with_keys: bool = True) -> Examined:
    """Look at everything in a data folder; changes nothing. FormatInvalid, Unavailable, OSError.

    `with_keys`: also at who signed the ledger; not where a backup was just restored, which has no keys yet.
    """
    data = settings.server.data
    check_data(data)
    blobs = LocalBlobs(data, create=False)
    try:
        return examine(data / DATABASE_NAME, blobs, clock(), progress, LedgerKeys(settings.keys) if with_keys else None)
    finally:
        blobs.close()


def collect_store(settings: Settings, *, dry_run: bool, clock: Clock = now_us) -> Iterator[Item]:
    """Remove, or with `dry_run` only name, what nothing in a data folder needs, as it goes. FormatInvalid, Unavailable.

    Nothing is removed from a store of which is doubted whether it is what its ledger signed: LedgerFrozen.
    """
    with open_store(settings, clock=clock) as store:
        if store.database.frozen is not None and not dry_run:  # what its lost entries name looks like what nobody needs
            raise LedgerFrozen(f"nothing is removed: {store.database.frozen}")
        yield from collect(store.database, store.blobs, clock(), dry_run=dry_run)


def prepare(settings: Settings, *, clock: Clock = now_us) -> None:
    """Make or migrate the data folder, begin the ledger, and record the rules if they are new."""
    store = _begin(settings, clock)
    store.close()


class Application(Starlette):
    """Everything a worker answers. The distribution API stands before Starlette's routing, as every pull waits for it."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        reload: Callable[[], Settings] | None,
        observer: Observer,
        witness_app: httpx2.AsyncBaseTransport | None,
    ) -> None:
        super().__init__(lifespan=self._run)
        self._settings = settings
        self._clock = clock
        self._reload = reload
        self._notes: tuple[str, ...] = ()
        self._store: Store | None = None
        self._signer: Signer | None = None
        self._witnesses: Witnesses | None = None
        self._witness_app = witness_app
        self._api: DistributionApi | None = None
        self._logins: Logins | None = None
        self._observer = observer
        health = Health(observer, self._readiness)
        self._beside: dict[str, ASGIApp] = {HEALTH_PATH: health, READY_PATH: health}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the lifespan."""
        if self._api is not None and scope["type"] == "http" and _is_distribution(scope["path"]):
            await self._api(scope, receive, send)
        elif scope["type"] == "http" and (beside := self._beside.get(_beside_name(scope["path"]))) is not None:
            await beside(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _run(self, _: Starlette) -> AbstractAsyncContextManager[None]:
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        self._store = store = _begin(self._settings, self._clock)
        self._logins = Logins(UserFile(self._settings.htpasswd), count=self._observer.totals.count)
        self._serve(store.registry, self._settings, self._logins)
        if not self._settings.server.read_only:
            await self._ask_witnesses(store)
            self._signer = Signer(store.integrator, store.database)
            self._signer.start()
        asked = asyncio.create_task(self._witnesses.run()) if self._witnesses is not None else None
        janitor = asyncio.create_task(_janitor(store.blobs, self._clock, lambda: self._settings.server.read_only))
        if self._reload is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._read_rules_again, self._reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        try:
            async with self._observer.running():
                yield
        finally:
            self._api = None
            for task in (janitor, asked):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            if self._witnesses is not None:
                await self._witnesses.aclose()
            if self._signer is not None:
                self._signer.close()
            store.close()

    async def _ask_witnesses(self, store: Store) -> None:
        """Before anything is taken in: has somebody else seen more of our ledger than is here?"""
        found = [
            Witness(WitnessClient(one.url, app=self._witness_app), VerifierKey.parse(one.key))
            for one in self._settings.witness
        ]
        if found:
            self._witnesses = Witnesses(store.database, store.keys, found)
            await self._witnesses.at_start()
            _check_ledger(store)

    def _serve(self, registry: Registry, settings: Settings, logins: Logins | None) -> None:
        logins = logins or Logins(UserFile(settings.htpasswd))
        tokens = Tokens(KeyFile(settings.keys / "token.json"), settings.auth.service, self._clock)
        access = Access(settings.grants, logins, tokens, configured=settings.auth.configured)
        gate = Gate(access, _realm(settings), _open_to(settings))
        server = settings.server
        api_settings = ApiSettings(
            public_url=server.public_url,
            max_manifest_bytes=int(server.max_manifest_bytes),
            # Not where there are merely no users yet: the first one ends that at once, and a shared cache would not hear.
            anonymous_pull=settings.grants.all_may_pull,
            read_only=lambda: _read_only(settings, self._store),
            body=BodyLimits(min_bytes_per_s=int(server.min_body_bytes_per_s)),
        )
        self._api = DistributionApi(registry, api_settings, gate, self._observer)
        self._observer.lines_wanted = bool(server.access_log)
        local = "admins" if server.behind_proxy else "local"
        open_to = "everybody" if server.public_metrics else local
        self._beside[METRICS_PATH] = Metrics(self._observer, gate, self._gauges, open_to)
        self._beside[TOKEN_PATH] = TokenService(self._observer, gate)
        self._beside[LEDGER_PREFIX] = LedgerApi(self._observer, registry.ledger, gate, public=settings.ledger.public)

    def _gauges(self) -> dict[str, tuple[str, float]]:
        data = self._settings.server.data
        free = Room(data, 0).free_bytes()
        uploads = sum(1 for _ in (data / "uploads").iterdir())
        return {
            "boltseal_disk_free_bytes": ("Free space under the data folder", free),
            "boltseal_uploads_open": ("Upload sessions that were begun and not ended", uploads),
        }

    def _read_rules_again(self, reload: Callable[[], Settings]) -> None:
        """SIGHUP: take over what a running server can of the configuration; one that can't be used changes nothing."""
        if self._store is None:
            return
        try:
            newer = reload()
            settings = self._settings.taking_over(newer)
            _start_ledger(self._store, settings)
        except BoltsealError as error:
            self._notes = (f"the last reload of the configuration failed, everything stays as it was: {error.message}",)
            _log.error("the configuration could not be read again; the rules stay as they were", reason=error.message)
            return
        left_out = self._settings.left_out(newer)
        self._notes = (f"changed in the configuration, but only a restart brings it: {', '.join(left_out)}",) * bool(
            left_out
        )
        try:
            # The server's parent replaces the workers when the files have changed; here only what it will find is told.
            check_certificate(settings.server.tls_cert, settings.server.tls_key)
        except BoltsealError as error:
            self._notes += (f"the certificate that was read first is still served: {error.message}",)
            _log.error("the certificate can't be read again", reason=error.message)
        self._settings = settings
        # Requests under way end under the rules they began with.
        store = self._store
        room = Room(settings.server.data, int(settings.server.disk_reserve_bytes))
        registry = build_registry(store.database, store.blobs, settings.rules, room, _bounds(settings))
        self._serve(registry, settings, self._logins)
        _log.info("rules read again", rules=len(settings.rules.user))
        if left_out:
            _log.warning("changed settings that only a restart brings", settings=list(left_out))

    async def _readiness(self) -> Readiness:
        if self._store is None:
            return Readiness(("the store is not open",), ())
        server = self._settings.server
        room = Room(server.data, int(server.disk_reserve_bytes))
        notes = self._notes
        if self._signer is not None and self._signer.trouble is not None:
            notes = (*notes, f"the newest entries of the ledger are not signed: {self._signer.trouble}")
        if self._witnesses is not None:
            notes = (*notes, *self._witnesses.troubles)
        read_only = _read_only(self._settings, self._store)
        return await readiness(self._store.database, room, read_only, notes, self._clock)


def create_app(
    settings: Settings,
    *,
    clock: Clock = now_us,
    reload: Callable[[], Settings] | None = None,
    access_log: Write | None = None,
    run: Path | None = None,
    witness_app: httpx2.AsyncBaseTransport | None = None,
) -> Starlette:
    """The application of one process. Its lifespan opens `settings.server.data` and closes it.

    `reload`: reads the settings again at SIGHUP; None leaves the signal alone. `access_log`: takes the lines of the access log.
    `run`: the folder through which the workers of one server sum up their metrics; see `storage.totals`. `witness_app`:
    answers for every witness; None: they are asked over the network.
    """
    observer = Observer(access_log, None if run is None else RunFolder(run))
    return Application(settings, clock, reload, observer, witness_app)


async def _janitor(blobs: LocalBlobs, clock: Clock, read_only: Callable[[], bool]) -> None:
    """Once an hour, in every process: they may meet at a session, and then one of them finds nothing to do."""
    while True:
        if read_only():
            await asyncio.sleep(JANITOR_EVERY_S)
            continue
        try:
            removed = await asyncio.to_thread(list, collect_uploads(blobs, clock()))
        except BoltsealError as error:
            _log.warning("abandoned uploads could not be removed", reason=error.message)
        else:
            if removed:
                _log.info("abandoned uploads removed", count=len(removed))
        await asyncio.sleep(JANITOR_EVERY_S)


def _begin(settings: Settings, clock: Clock) -> Store:
    prepare_data(settings.server.data)
    store = _open(settings, clock)
    try:
        _start_ledger(store, settings)
        if store.database.frozen is None:
            store.integrator.begin()
            _sign(store)
    except BaseException:
        store.close()
        raise
    return store


def _sign(store: Store) -> None:
    """Sign what is not signed yet; what can't be signed now is signed by the next process that can."""
    try:
        store.integrator.integrate()
    except LedgerDoubt as doubt:
        store.database.frozen = doubt.message
        _log.error("the ledger is doubted: nothing is taken in", reason=doubt.message)
    except BoltsealError as error:
        _log.warning("the ledger could not be signed", reason=error.message)


def _start_ledger(store: Store, settings: Settings) -> None:
    """Begin the ledger if it is new, and record the rules if they are. A read-only server decides nothing by them."""
    if store.database.frozen is not None or (settings.server.read_only and store.database.read_and_wait(_has_ledger)):
        return
    origin, rules = _origin(settings), settings.rules.canonical()
    store.database.write_and_wait(lambda tx: start_ledger(tx, origin=origin, rules=rules, actor="boltseal"))


def _has_ledger(connection: Connection) -> bool:
    return ledger_store.head(Transaction(connection, 0)) is not None


def _bounds(settings: Settings) -> Bounds:
    """What users may add."""
    return Bounds(settings.quotas, settings.auth.max_uploads_per_user, settings.server.max_referrers_per_image)


def _read_only(settings: Settings, store: Store | None) -> str | None:
    """The sentence that refuses every change, None where changes are taken."""
    if settings.server.read_only:
        return READ_ONLY
    frozen = None if store is None else store.database.frozen
    return None if frozen is None else f"this registry takes nothing in, pulls go on: {frozen}"


def _open(settings: Settings, clock: Clock) -> Store:
    data = settings.server.data
    database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, clock)
    blobs = LocalBlobs(data, memory_bytes=settings.server.upload_buffer_bytes)
    room = Room(data, int(settings.server.disk_reserve_bytes))
    keys = LedgerKeys(settings.keys)
    integrator = Integrator(database, keys)
    registry = build_registry(database, blobs, settings.rules, room, _bounds(settings))
    store = Store(data, database, blobs, registry, keys, integrator)
    _check_ledger(store)
    return store


def _check_ledger(store: Store) -> None:
    """Freeze a store that is not, or may not be, what its ledger signed."""
    try:
        store.integrator.check()
    except Unavailable as doubt:  # also a key that can't be read: what it would say of this data can't be known
        store.database.frozen = doubt.message
        _log.error("the ledger is doubted: nothing is taken in", reason=doubt.message)


def _origin(settings: Settings) -> str:
    """The name of the ledger at its first start: as configured, else the name that clients know us by."""
    if settings.ledger.origin is not None:
        return settings.ledger.origin
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    return f"localhost:{settings.server.address.port}" if settings.server.address.loopback else settings.server.listen


def _realm(settings: Settings) -> str | None:
    """The absolute address of the token service, from the configuration alone; None where it does not tell one."""
    server = settings.server
    if server.public_url is not None:
        return server.public_url + TOKEN_PATH
    if server.address.any_interface:
        return None
    return f"{'https' if server.tls_cert else 'http'}://{server.address}{TOKEN_PATH}"


def _open_to(settings: Settings) -> frozenset[str] | None:
    """By which host names a registry without users may be asked: on loopback this machine's, elsewhere any.

    A proxy in front passes on what clients call it, and decides itself whom it answers.
    """
    server = settings.server
    if server.behind_proxy or not server.address.loopback:
        return None
    host = f"[{server.address.host}]" if ":" in server.address.host else server.address.host
    public = urlsplit(server.public_url).hostname if server.public_url else None
    return frozenset({"localhost", "127.0.0.1", "[::1]", host, *([public.lower()] if public else [])})


def _beside_name(path: str) -> str:
    """Under which name what answers a path stands in the table: a path of its own, or everything below /ledger/."""
    return LEDGER_PREFIX if path.startswith(LEDGER_PREFIX) else path


def _is_distribution(path: str) -> bool:
    return path.startswith("/v2/") or path == "/v2"
