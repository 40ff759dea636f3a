"""Builds the server: settings in, an ASGI application out.

`create_app` is for a worker process: its lifespan opens the store (`store_factory`), runs the background tasks and
closes the store. Nothing is opened before the lifespan begins, so that a test can build two applications.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import structlog
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from boltseal.errors import BoltsealError, Unavailable
from boltseal.events import Event
from boltseal.policy.client_address import parse_network
from boltseal.server.api.access_log import RequestLog, Write
from boltseal.server.api.admin.routes import PREFIX as ADMIN_PREFIX
from boltseal.server.api.admin.tables import admin_api
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.distribution import DistributionApi
from boltseal.server.api.health import HEALTH_PATH, READY_PATH, HealthEndpoints
from boltseal.server.api.ledger import OBSERVATIONS_PREFIX, LedgerApi
from boltseal.server.api.ledger import PREFIX as LEDGER_PREFIX
from boltseal.server.api.metrics import METRICS_PATH, Metrics
from boltseal.server.api.request import BodyLimits, with_forwarded_client
from boltseal.server.api.server_names import allowed_hosts, realm
from boltseal.server.api.settings import ApiSettings
from boltseal.server.api.token import TOKEN_PATH, TokenService
from boltseal.server.api.witness_service import PREFIX as WITNESS_PREFIX
from boltseal.server.api.witness_service import WitnessServiceApi
from boltseal.server.auth.access import Access
from boltseal.server.auth.api_tokens import ApiTokens
from boltseal.server.auth.failed_logins import FailedLogins
from boltseal.server.auth.issuer_logins import IssuerLogins
from boltseal.server.auth.logins import Logins
from boltseal.server.auth.page_sessions import PageSessions
from boltseal.server.auth.person_logins import PersonLogins
from boltseal.server.auth.pipeline_logins import PipelineLogins
from boltseal.server.auth.tokens import Tokens
from boltseal.server.auth.user_directory import AccountRows, UserDirectory
from boltseal.server.dropped_signals import deliver_dropped_signals
from boltseal.server.maintenance import JANITOR_EVERY_S, check_tags_daily, clean_up_regularly
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.mirror.upstream_limits import EventHandler
from boltseal.server.mirror.upstreams import Upstreams
from boltseal.server.mirror_factory import UPSTREAM_TIMEOUT_S, build_mirror, build_upstreams
from boltseal.server.rebuilds import RebuildScheduler
from boltseal.server.registry import Registry, build_registry
from boltseal.server.registry.attestations import Attestations
from boltseal.server.registry.ledger_start import ask_witnesses, begin_ledger, ledger_name, resume
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.readiness import Readiness, frozen_refusal, readiness
from boltseal.server.registry.sequencer import ClockStepped
from boltseal.server.registry.signer import Signer
from boltseal.server.registry.store_gauges import StoreGauges
from boltseal.server.registry.witness_service import WitnessService
from boltseal.server.registry.witnesses import Witnesses
from boltseal.server.server_events import ServerEvents
from boltseal.server.settings import Settings
from boltseal.server.state_gauges import outbox_state, upstream_state
from boltseal.server.storage.attestation_key import AttestationKeys
from boltseal.server.storage.certificate import check_certificate
from boltseal.server.storage.clock_guard import ClockGuard
from boltseal.server.storage.coordination.factory import open_leases, open_locks
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.key_file import KeyFile
from boltseal.server.storage.metadata.protocol import OBSERVATIONS, Log
from boltseal.server.storage.metrics import Gauge, RunFolder
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import UserFile
from boltseal.server.storage.worker_threads import finish_in_thread
from boltseal.server.store_factory import Clock, begin, bounds, now_us
from boltseal.server.web.application import CALLBACK_PATH, PageAddress, Pages
from boltseal.server.web.application import PREFIX as PAGES_PREFIX
from boltseal.server.web.page_ledger import PageLedger
from boltseal.server.web.pages.context import PageContext

READ_ONLY: Final = "this registry is read-only: it serves pulls and refuses pushes and deletes"

_log = structlog.get_logger(__name__)


class Application(Starlette):
    """The application of a worker. It calls the distribution API before Starlette's routing, to save time per pull."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        reload: Callable[[], Settings] | None,
        observer: RequestLog,
        witness_app: httpx2.AsyncBaseTransport | None,
        on_event: EventHandler,
        janitor_every_s: float,
        upstream_timeout_s: float,
        clock_guard: ClockGuard | None,
    ) -> None:
        super().__init__(lifespan=self._run)
        self._settings = settings
        self._clock = clock
        self._clock_guard = clock_guard
        self._reload = reload
        self._notes: tuple[str, ...] = ()
        self._store: OpenStore | None = None
        self._leases: Leases | None = None
        self._store_gauges: StoreGauges | None = None
        self._signers: list[Signer] = []
        self._witnesses: Witnesses | None = None
        self._witness_app = witness_app
        self._witness_service: WitnessService | None = None
        self._trusted_proxies = [parse_network(text) for text in settings.server.trusted_proxies]
        self._events = ServerEvents(on_event)
        self._janitor_every_s = janitor_every_s
        self._upstream_timeout_s = upstream_timeout_s
        self._api: DistributionApi | None = None
        self._logins: Logins | None = None
        self._api_tokens: ApiTokens | None = None
        self._accounts: AccountRows | None = None
        self._issuer_logins: IssuerLogins | None = None
        self._upstreams: Upstreams | None = None
        self._mirror: MirrorCache | None = None
        self._push_proxy: PushProxy | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._observer = observer
        health = HealthEndpoints(observer, self._readiness)
        self._endpoints: dict[str, ASGIApp] = {HEALTH_PATH: health, READY_PATH: health}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if self._trusted_proxies and scope["type"] == "http":
            scope = with_forwarded_client(scope, self._trusted_proxies)
        if self._api is not None and scope["type"] == "http" and _is_distribution(scope["path"]):
            await self._api(scope, receive, send)
        elif scope["type"] == "http" and (endpoint := self._endpoints.get(_endpoint_key(scope["path"]))) is not None:
            await endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _run(self, _: Starlette) -> AbstractAsyncContextManager[None]:
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        self._store = store = begin(self._settings, self._clock, self._clock_guard, serves=True)
        self._store_gauges = StoreGauges(self._settings.server.data, store.database, now_us=store.database.now_us)
        self._observer.write_queue = lambda: store.database.write_queue
        self._accounts = accounts = AccountRows(store.database, UserKey(self._settings.keys))
        self._issuer_logins = IssuerLogins(accounts, store.database.now_us)
        self._api_tokens = ApiTokens(accounts, store.database.now_us)
        self._logins = Logins(
            UserDirectory(UserFile(self._settings.htpasswd), accounts),
            FailedLogins(store.database, store.database.now_us),
            count=self._observer.totals.count,
        )
        self._upstreams = build_upstreams(self._settings.upstreams, timeout_s=self._upstream_timeout_s)
        self._locks = open_locks(self._settings.server.data, self._settings.storage)
        self._mirror, self._push_proxy = build_mirror(
            upstreams=self._upstreams,
            registry=store.registry,
            store=store.blobs,
            database=store.database,
            locks=self._locks,
            clock=store.database.now_us,
            on_event=self._events.handle,
            check_disk=lambda wanted_bytes: self._disk_reserve().check(wanted_bytes),
            read_only=self._write_refusal,
            count=self._observer.totals.count,
        )
        self._leases = leases = open_leases(self._settings.server.data, self._settings.storage)
        self._witness_service = self._open_witness_service(store)
        if self._witness_service is not None and not self._settings.server.read_only:
            await finish_in_thread(self._witness_service.begin)
        self._serve(store.registry, self._settings, self._logins)
        if not self._settings.server.read_only:
            self._events.start(self._settings, store)
            self._witnesses = await ask_witnesses(
                store, self._settings, self._witness_app, lambda: resume(store, self._settings)
            )
            self._signers = [Signer(each, store.database) for each in store.integrators]
            for signer in self._signers:
                signer.start()
        tasks = [asyncio.create_task(each) for each in self._background_work(store, leases)]
        if self._reload is not None:
            reload = self._reload
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._begin_reload(reload))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            deliver_dropped_signals()
        try:
            async with self._observer.running():
                yield
        finally:
            self._api = None
            for task in (*tasks, self._reloading):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            if self._witnesses is not None:
                await self._witnesses.aclose()
            await self._push_proxy.aclose()
            await self._mirror.aclose()
            await self._upstreams.aclose()
            self._locks.close()
            leases.close()
            for signer in self._signers:
                signer.close()
            await self._events.aclose()
            store.close()

    def _background_work(self, store: OpenStore, leases: Leases) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what runs beside the requests until the server ends."""
        settings, writes = self._settings, not self._settings.server.read_only
        if self._mirror is None or self._push_proxy is None:
            raise AssertionError("the mirror is built before the work begins")
        if self._witnesses is not None:
            yield self._witnesses.run()
        yield clean_up_regularly(store, leases, lambda: self._settings, self._janitor_every_s)
        if self._api_tokens is not None:
            yield self._api_tokens.run(lambda: writes)
        if writes:
            yield check_tags_daily(store, leases)
            yield store.registry.refused_pushes.run(lambda: store.database.closed is None)
            yield store.registry.layer_chains.run(leases, lambda: self._write_refusal() is None)
        if writes and settings.actions:
            yield RebuildScheduler(
                settings, store, leases, store.database.now_us, self._events.handle, self._mirror, self._push_proxy
            ).run()
        yield self._mirror.run()
        yield store.registry.settling.run(store.database.now_us, lambda: self._write_refusal() is None)
        if writes and any(terms.push for terms in settings.upstreams):
            yield self._push_proxy.run()

    def _serve(self, registry: Registry, settings: Settings, logins: Logins) -> None:
        registry.refusals.on_refusal = self._events.refused
        tokens = Tokens(KeyFile(settings.keys / "token.json"), settings.auth.service, self._now_us)
        # Without the folder of keys its users are missing too: callers without a login must not get what needed one.
        keys_lost = self._store is not None and self._store.keys_lost
        access = Access(
            settings.grants,
            logins,
            tokens,
            configured=settings.login_required or keys_lost,
            stays_required=settings.login_stays_required,
            api_tokens=self._api_tokens,
            token_terms=settings.auth.token_terms,
            pipelines=self._pipelines(settings),
            people_of="" if settings.person_terms is None else settings.person_terms.issuer,
        )
        auth = RequestAuth(access, realm(settings), allowed_hosts(settings))
        server = settings.server
        api_settings = ApiSettings(
            public_url=server.public_url,
            max_manifest_bytes=int(server.max_manifest_bytes),
            # Not merely because there are no users yet: the first one ends that, and shared caches would not notice.
            anonymous_pull=settings.grants.all_may_pull,
            read_only=READ_ONLY if server.read_only else None,
            unavailable=self._unavailable,
            body=BodyLimits(min_bytes_per_s=int(server.min_body_bytes_per_s)),
            name_resolver=settings.name_resolver,
        )
        self._api = DistributionApi(registry, api_settings, auth, self._observer, self._mirror, self._push_proxy)
        self._observer.lines_wanted = bool(server.access_log)
        local = "admins" if server.behind_proxy or server.trusted_proxies else "local"
        metrics_for = "everybody" if server.public_metrics else local
        self._endpoints[METRICS_PATH] = Metrics(self._observer, auth, self._gauges, metrics_for)
        self._endpoints[TOKEN_PATH] = TokenService(self._observer, auth, settings.name_resolver)
        public = settings.ledger.public
        self._endpoints[OBSERVATIONS_PREFIX] = LedgerApi(
            self._observer, registry.observed, auth, public=public, prefix=OBSERVATIONS_PREFIX
        )
        if self._witness_service is not None:
            self._endpoints[WITNESS_PREFIX] = WitnessServiceApi(
                self._observer, self._witness_service, read_only=READ_ONLY if server.read_only else None
            )
        if self._store is None or self._leases is None:
            raise AssertionError("the store is open before requests are served")
        attestations = Attestations(self._store.database, registry.ledger, AttestationKeys(self._store.keys.folder))
        self._endpoints[LEDGER_PREFIX] = LedgerApi(
            self._observer, registry.ledger, auth, public=public, attestations=attestations
        )
        admin = admin_api(self._observer, auth, api_settings, registry, settings, self._store, self._leases)
        self._endpoints[ADMIN_PREFIX] = admin
        host = (settings.base_url or "").partition("://")[2]
        contents = PageContext(registry, access, admin, settings.name_resolver, host, self._verifier_key)
        ledger = PageLedger(registry.ledger, registry.observed, access, public=settings.ledger.public)
        self._endpoints[PAGES_PREFIX] = self._pages(auth, settings, contents, ledger)

    def _open_witness_service(self, store: OpenStore) -> WitnessService | None:
        """Return the witness of other ledgers, None if the settings name none."""
        settings = self._settings.witness_service
        if not settings.logs:
            return None
        name = settings.name or f"{ledger_name(self._settings)}/witness"
        return WitnessService(
            store.keys,
            store.database,
            settings.known_logs,
            name,
            now_us=store.database.now_us,
            clock_doubt=self._clock_doubt,
        )

    def _verifier_key(self, log: Log) -> str:
        return "" if self._store is None else self._store.verifier_key(log)

    def _pages(self, auth: RequestAuth, settings: Settings, contents: PageContext, ledger: PageLedger) -> Pages:
        """Return the pages below `/ui/`."""
        if self._accounts is None:
            raise AssertionError("the store is open before requests are served")
        sessions = PageSessions(self._accounts, settings.ui.terms)
        enabled = True if settings.ui.enabled is None and settings.server.address.loopback else settings.ui.enabled
        address = PageAddress(settings.base_url, settings.encrypted, enabled)
        people = self._person_logins(auth.access, settings, sessions)
        return Pages(self._observer, auth, sessions, address, contents, ledger, people)

    def _person_logins(self, access: Access, settings: Settings, sessions: PageSessions) -> PersonLogins | None:
        """Return the logins at the identity provider, None if there is none; after a reload with its keys if it is as before."""
        if self._issuer_logins is None:
            raise AssertionError("the store is open before requests are served")
        return self._issuer_logins.people(settings, f"{settings.base_url}{CALLBACK_PATH}", sessions, access.in_file)

    def _pipelines(self, settings: Settings) -> PipelineLogins:
        """Return the logins of pipelines; after a reload with the keys of issuers that are as before."""
        if self._issuer_logins is None:
            raise AssertionError("the store is open before requests are served")
        return self._issuer_logins.pipelines(settings)

    def _gauges(self) -> list[Gauge]:
        """Return the state of the store for the metrics. Called in a thread."""
        if self._store is None or self._store_gauges is None:
            return []
        gauges = list(self._store_gauges.read(self._disk_reserve()))
        read_only = _read_only(self._settings, self._store) is not None
        gauges.append(Gauge("boltseal_read_only", "Whether all writes are refused", {"": float(read_only)}))
        gauges += upstream_state(self._settings, self._store, self._now_us())
        gauges += outbox_state(self._settings, self._store)
        return gauges

    def _begin_reload(self, reload: Callable[[], Settings]) -> None:
        """Reload the configuration after every reload that is under way."""
        self._reloading = asyncio.create_task(self._reload_after(self._reloading, reload))

    async def _reload_after(self, before: asyncio.Task[None] | None, reload: Callable[[], Settings]) -> None:
        if before is not None:
            try:
                await asyncio.wait([before])
            except asyncio.CancelledError:  # the server stops, and closes what the other reload uses
                before.cancel()
                await asyncio.wait([before])
                raise
        await self._reload_settings(reload)

    async def _reload_settings(self, reload: Callable[[], Settings]) -> None:
        """Apply what a running server can of a changed configuration; an invalid one changes nothing."""
        if self._store is None or self._logins is None:
            return
        try:
            newer = reload()
            settings = self._settings.with_live_changes(newer)
            await finish_in_thread(begin_ledger, self._store, settings)
        except BoltsealError as error:
            self._notes = (f"reload failed, the previous configuration stays in force: {error.message}",)
            _log.error("reload failed, the previous configuration stays in force", reason=error.message)
            return
        need_restart = self._settings.restart_required(newer)
        self._notes = (f"changed settings that need a restart: {', '.join(need_restart)}",) * bool(need_restart)
        try:
            # The parent replaces the workers when the files have changed; this only reports errors.
            check_certificate(settings.server.tls_cert, settings.server.tls_key)
        except BoltsealError as error:
            self._notes += (f"cannot reload the certificate, the previous one stays in use: {error.message}",)
            _log.error("cannot reload the certificate", reason=error.message)
        self._settings = settings
        # Requests in progress finish under the rules they began with.
        store = self._store
        registry = build_registry(
            store.database,
            store.blobs,
            settings.rules,
            self._disk_reserve(),
            bounds(settings),
            pulls=store.registry.pulls,
            refused_pushes=store.registry.refused_pushes,
            tiles=store.tiles,
        )
        if self._mirror is not None:
            self._mirror.use_registry(registry)
        if self._push_proxy is not None:
            self._push_proxy.registry = registry
        self._serve(registry, settings, self._logins)
        _log.info("configuration reloaded", rules=len(settings.rules.user))
        if need_restart:
            _log.warning("changed settings need a restart", settings=list(need_restart))

    def _write_refusal(self) -> str | None:
        """Return why nothing may be written now, by the settings, the ledger or the clock; None if writes are accepted."""
        return _read_only(self._settings, self._store) or self._clock_doubt()

    def _unavailable(self) -> Unavailable | None:
        """Return the error of all writes now, if the data is being moved, the ledger is in doubt or the clock is wrong."""
        if self._store is None:
            return None
        clock_doubt = self._clock_doubt()
        refusal = frozen_refusal(self._store.database, self._store.moved)
        return refusal or (None if clock_doubt is None else ClockStepped(clock_doubt))

    def _clock_doubt(self) -> str | None:
        """Return why the clock gives no times now, None if it does."""
        return None if self._store is None else self._store.database.clock_guard(self._store.database.now_us())

    def _now_us(self) -> int:
        """Return the time of the store, which is the database's if that has a clock."""
        return self._clock() if self._store is None else self._store.database.now_us()

    def _disk_reserve(self) -> DiskReserve:
        server = self._settings.server
        return DiskReserve(server.data, int(server.disk_reserve_bytes))

    async def _readiness(self) -> Readiness:
        if self._store is None:
            return Readiness(("the store is not open",), ())
        notes = self._notes
        troubles = dict.fromkeys(each.trouble for each in self._signers if each.trouble is not None)
        notes = (*notes, *(f"the newest entries of the ledger are not signed: {trouble}" for trouble in troubles))
        if OBSERVATIONS.name in self._store.database.doubts:
            doubt = self._store.database.doubts[OBSERVATIONS.name]
            notes = (
                *notes,
                f"observations of upstreams' tags are not recorded, so no new ones are served: {doubt}",
            )
        if self._witnesses is not None:
            notes = (*notes, *self._witnesses.troubles)
        if self._witness_service is not None and self._witness_service.trouble is not None:
            notes = (*notes, self._witness_service.trouble)
        notes = (*notes, *self._events.troubles, *self._store.registry.settling.troubles)
        notes = (*notes, *self._observer.restarts.troubles(time.monotonic()))
        read_only = _read_only(self._settings, self._store)
        store = self._store
        return await readiness(
            store.database, self._disk_reserve(), read_only, notes, self._clock, upkeep=store.blobs.upkeep
        )


def create_app(
    settings: Settings,
    *,
    clock: Clock = now_us,
    reload: Callable[[], Settings] | None = None,
    access_log: Write | None = None,
    run: Path | None = None,
    witness_app: httpx2.AsyncBaseTransport | None = None,
    on_event: EventHandler | None = None,
    janitor_every_s: float = JANITOR_EVERY_S,
    upstream_timeout_s: float = UPSTREAM_TIMEOUT_S,
    clock_guard: ClockGuard | None = None,
) -> Starlette:
    """Return the application of one process. Its lifespan opens and closes `settings.server.data`.

    `reload`: reads the settings again at SIGHUP; None ignores the signal. `access_log`: takes the lines of the access
    log. `run`: the folder in which the workers of one server share their metrics; see `server.storage.metrics`.
    `witness_app`: responds for every witness; None: over the network. `on_event`: takes events of upstreams and their
    tags; None: logs them. `janitor_every_s`: time between two deletions of what is not needed. `upstream_timeout_s`: of a
    request to an upstream that a client waits for. `clock_guard`: watches the clock while the server runs.
    """
    observer = RequestLog(access_log, None if run is None else RunFolder(run))
    return Application(
        settings,
        clock,
        reload,
        observer,
        witness_app,
        on_event or _log_event,
        janitor_every_s,
        upstream_timeout_s,
        clock_guard,
    )


def _log_event(event: Event) -> None:
    """Log an event of an upstream or its tags."""
    _log.warning(event.text, kind=str(event.kind))


def _read_only(settings: Settings, store: OpenStore | None) -> str | None:
    """Return the message with which changes are refused, or None if they are accepted."""
    frozen = None if store is None else frozen_refusal(store.database, store.moved)
    return READ_ONLY if settings.server.read_only else None if frozen is None else frozen.message


def _endpoint_key(path: str) -> str:
    """Return the key of a path in the table of endpoints: a prefix, or the path itself."""
    return next(
        (
            prefix
            for prefix in (OBSERVATIONS_PREFIX, LEDGER_PREFIX, ADMIN_PREFIX, PAGES_PREFIX, WITNESS_PREFIX)
            if path.startswith(prefix)
        ),
        path,
    )


def _is_distribution(path: str) -> bool:
    return path.startswith("/v2/") or path == "/v2"
