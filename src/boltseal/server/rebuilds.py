"""Scans the server's own images for outdated bases on a schedule, and requests rebuilds as `[[on_outdated]]` says.

The scan is that of `boltseal outdated`. Requests to this registry stay in the process, bypass authentication, and are GET
and HEAD only. Requests to an upstream go through this server's mirror, so that what is served here counts. Requests to
other registries go over the network, anonymously, and only to public registries: a pushed label can name any host.

    DATA/outdated/    what was learned of other registries, and the scan's lock

Of several servers on one database the one that has the lease scans, as long as it runs. Each request and each record in the ledger
confirms the lease. The requests are rows (`requested_rebuilds`), so a server that takes over requests none twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import httpx2
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from boltseal.client.credentials import CredentialStore
from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_trust import LedgerCheck, LedgerWatch, TrustStatus
from boltseal.client.registry_request import RegistryRequest, RegistryResponse
from boltseal.client.state import ClientState
from boltseal.client.transport import MAX_DOCUMENT_BYTES, Transport, TransportOptions
from boltseal.commands.rebuild_loop import rebuild_outdated
from boltseal.commands.registry_images import registry_images
from boltseal.config import secret_variable
from boltseal.errors import BoltsealError, Denied
from boltseal.events import BaseOutdated
from boltseal.ledger.entry import EntryKind
from boltseal.oci.reference import Repository
from boltseal.policy.grants import Grants
from boltseal.policy.ignored_images import is_ignored
from boltseal.policy.rebuild_actions import separator_for, token_of
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, TagExpectations
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.base_scan import BaseScanner
from boltseal.project.bases.image_documents import ImageDocuments
from boltseal.project.bases.ledger_entries import rebuild_entry_extra
from boltseal.project.bases.rebuild_journal import RebuildOutcome
from boltseal.project.bases.rebuild_requests import RebuildDue, Rebuilder, RebuildPlan, RebuildResult
from boltseal.project.bases.rebuild_tags import RebuildTags
from boltseal.project.bases.tag_history import TagHistories, memory_from_cache
from boltseal.project.settings import PUBLIC_REGISTRIES
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.distribution import DistributionApi
from boltseal.server.api.in_process import InProcessHttp
from boltseal.server.api.ledger import PREFIX as LEDGER_PREFIX
from boltseal.server.api.ledger import LedgerApi
from boltseal.server.api.settings import ApiSettings
from boltseal.server.auth.access import Access
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.logins import Logins
from boltseal.server.auth.tokens import Tokens
from boltseal.server.auth.user_directory import UserDirectory
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.records import LedgerRecord
from boltseal.server.registry.requested_rebuilds import RebuildRows
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.protocol import Lease, LeaseLost, Leases
from boltseal.server.storage.key_file import KeyFile
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.users import UserFile

FOLDER: Final = "outdated"
LEASE: Final = "rebuilds"
FIRST_S: Final = 60.0
MAX_WORDS: Final = 20
"""How many rebuilds that are not requested are named in the log for each scan."""
AT_ONCE: Final = 2
"""How many images are read at a time; pulls at the same time wait for at most these."""
MAX_KEPT_BYTES: Final = 64 * 1024
ACTOR: Final = Actor("boltseal")
_READS: Final = frozenset({"GET", "HEAD"})

_log = structlog.get_logger(__name__)


class ReadOnlyTransport(Denied):
    """A request that would change something without authentication."""


class InProcessTransport(Transport):
    """Sends requests to this registry and its upstreams to `inside`, and all others over the network, anonymously."""

    def __init__(
        self,
        inside: ASGIApp,
        name: str,
        also: frozenset[str],
        upstreams: frozenset[str],
        *,
        outside: ASGIApp | None = None,
    ) -> None:
        super().__init__(
            CredentialStore(()),
            TransportOptions(),
            app=None if outside is None else InProcessHttp(outside),
        )
        transport = InProcessHttp(inside)
        self._inner = Transport(CredentialStore(()), TransportOptions(attempts=1), app=transport)
        self._name = name
        self._also = also
        self._upstreams = upstreams

    async def aclose(self) -> None:
        await self._inner.aclose()
        await super().aclose()

    async def request(self, call: RegistryRequest, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> RegistryResponse:
        own = self._own(call)
        if own is None:
            return await super().request(call, max_bytes=max_bytes)
        return await self._inner.request(own, max_bytes=max_bytes)

    @asynccontextmanager
    async def stream(self, call: RegistryRequest) -> AsyncIterator[httpx2.Response]:
        own = self._own(call)
        stream = Transport.stream(self, call) if own is None else self._inner.stream(own)
        async with stream as response:
            yield response

    def _own(self, call: RegistryRequest) -> RegistryRequest | None:
        """Return the request as this registry gets it, None if it is for another one. Raises: ReadOnlyTransport."""
        if call.registry in self._upstreams and call.path.startswith("/v2/"):
            call = replace(call, path=f"/v2/{call.registry}/{call.path.removeprefix('/v2/')}")
        elif call.registry != self._name and call.registry not in self._also:
            return None
        if call.method not in _READS:
            raise ReadOnlyTransport(
                f"{call.method} of {call.what} is refused: requests without authentication only read"
            )
        return replace(call, registry=self._name)


class RebuildScheduler:
    """Scans all images of this registry at the configured interval, and requests rebuilds, in one process of a server."""

    def __init__(
        self,
        settings: Settings,
        store: OpenStore,
        leases: Leases,
        clock: Callable[[], int],
        on_outdated: Callable[[BaseOutdated], None],
        mirror: MirrorCache | None = None,
        push_proxy: PushProxy | None = None,
        *,
        outside: ASGIApp | None = None,
    ) -> None:
        self._settings = settings
        self._registry = store.registry
        self._database = store.database
        self._leases = leases
        self._lease: Lease | None = None
        self._clock = clock
        self._on_outdated = on_outdated
        self._upstreams = frozenset(terms.name for terms in settings.upstreams)
        self._inside = _inside(settings, store, mirror, push_proxy)
        self._outside = outside
        self._tokens = {
            name: token_of(name, secret_variable(name))
            for action in settings.actions
            if (name := action.token_env) is not None
        }
        self._state = ClientState(settings.server.data / FOLDER)
        self._name, *also = sorted(settings.own_names, key=lambda name: ("localhost" not in name, name))
        if settings.server.public_url is not None:
            also, self._name = [*also, self._name], settings.server.public_url.partition("://")[2]
        self._also = frozenset(also)

    async def run(self) -> None:
        """Scan until cancelled. A failed scan is logged, and repeated at the next interval."""
        every_s = min(action.every_us for action in self._settings.actions) / 1e6
        await asyncio.sleep(min(FIRST_S, every_s))
        while True:
            try:
                requested = await self.once()
            except BoltsealError as error:
                _log.warning("checking for outdated bases failed", reason=error.message)
            except Exception:  # noqa: BLE001 - the outermost layer of this task: scans must go on after a defect
                _log.exception("checking for outdated bases failed: internal error")
            else:
                _log.info("rebuilds requested", rebuilds=len(requested))
            await asyncio.sleep(every_s)

    async def once(self) -> list[RebuildResult]:
        """Scan once and return the requested rebuilds; nothing if another process scans.

        Raises: StateUnusable, LedgerBroken, LockUnusable; LeaseLost: another server scans from now on.
        """
        if not await asyncio.to_thread(self._has_lease):
            return []
        with self._state.alone("looking") as alone:
            return await self._once() if alone else []

    async def _once(self) -> list[RebuildResult]:
        if self._lease is None:
            raise LeaseLost("no rebuild is requested: another server does that")
        requested = RebuildRows(self._database, self._lease, self._state)
        await asyncio.to_thread(requested.adopt_file)
        transport = InProcessTransport(self._inside, self._name, self._also, self._upstreams, outside=self._outside)
        rebuilder = Rebuilder(
            self._settings.actions,
            requested,
            self._clock,
            record=self._record,
            name_new=RebuildTags(transport).new_image,
            allowed=self._confirm,
            tokens=self._tokens,
            on_outdated=self._on_outdated,
        )
        try:
            with DocumentCache(self._state, now_us=self._clock()) as learned:
                histories = TagHistories(transport, [memory_from_cache(learned)])
                scanner = BaseScanner(
                    transport,
                    ImageDocuments(transport, learned, max_kept_bytes=MAX_KEPT_BYTES),
                    learned,
                    histories,
                    allowed=self._allowed,
                    watch=self._watch(transport),
                    ignored=partial(is_ignored, self._settings.outdated.ignore),
                    expectations=TagExpectations((*self._settings.expectations.rules, *OFFICIAL_IMAGES)),
                    separator=lambda image: separator_for(self._settings.actions, image.repository, image.tag),
                    now_us=self._clock(),
                    at_once=AT_ONCE,
                )
                histories.followed = scanner.followed

                async def scan(again: bool) -> list[BaseReport]:
                    images = registry_images(transport, self._name, most=None, skip=self._is_mirrored)
                    wanted = [ImageToCheck(str(one), one) async for one in images]
                    return await scanner.scan(wanted, refresh=again)

                rounds = await rebuild_outdated(rebuilder, scan, _log_scan)
        finally:
            await transport.aclose()
        if rounds.elsewhere is not None:
            raise rounds.elsewhere
        return rounds.results

    def _has_lease(self) -> bool:
        if self._lease is None or not self._lease.held():
            self._lease = self._leases.acquire(LEASE)
        return self._lease is not None

    async def _confirm(self) -> None:
        """Raise LeaseLost if another server may request rebuilds now."""
        if self._lease is None:
            raise LeaseLost("no rebuild is requested: another server does that")
        with fenced(self._database, self._lease):
            await self._database.write(lambda _: None, durable=False)

    def _watch(self, transport: Transport) -> Callable[[str], Awaitable[LedgerCheck]]:
        watch = LedgerWatch(self._state, transport, lambda: self._clock() // 1_000_000)

        async def follow(registry: str) -> LedgerCheck:
            if registry in self._upstreams:  # the mirror resolves its tags, and this server's ledger records them
                return LedgerCheck(registry, TrustStatus.NO_LEDGER)
            return await watch.follow(registry)

        return follow

    def _allowed(self, registry: str) -> bool:
        return registry == self._name or registry in self._also | self._upstreams or registry in PUBLIC_REGISTRIES

    def _is_mirrored(self, repository: Repository) -> bool:
        return repository.partition("/")[0] in self._upstreams

    async def _record(self, due: RebuildDue, outcome: RebuildOutcome, reason: str) -> None:
        extra = rebuild_entry_extra(due.base, due.built_on, due.now, str(outcome), reason)
        entry = LedgerRecord(EntryKind.REBUILD_REQUESTED, due.digest, due.image.tag, extra=extra)
        if self._lease is None:
            raise LeaseLost("the rebuild is not recorded: another server requests rebuilds")
        with fenced(self._database, self._lease):
            await self._registry.records.record(due.image.repository, entry, ACTOR)


def _log_scan(reports: list[BaseReport], due: RebuildPlan) -> None:
    counts = Counter(str(one.verdict.status) for one in reports)
    _log.info("images checked for outdated bases", images=len(reports), stand=dict(counts))
    for words in due.messages(MAX_WORDS):
        _log.warning("rebuild not requested", reason=words)


def _inside(settings: Settings, store: OpenStore, mirror: MirrorCache | None, push_proxy: PushProxy | None) -> ASGIApp:
    """Return the registry API without authentication and without an access log."""
    observer = RequestLog()
    logins = Logins(
        UserDirectory(UserFile(settings.keys / "no-users"))
    )  # there is no such file, and so there are no users
    tokens = Tokens(KeyFile(settings.keys / "token.json"), settings.auth.service, lambda: 0)
    auth = RequestAuth(Access(Grants(), logins, tokens, configured=False), None)
    api_settings = ApiSettings(
        read_only="requests without authentication only read", name_resolver=settings.name_resolver
    )
    api = DistributionApi(store.registry, api_settings, auth, observer, mirror, push_proxy)
    ledger = LedgerApi(observer, store.registry.ledger, auth, public=True)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (ledger if scope["path"].startswith(LEDGER_PREFIX) else api)(scope, receive, send)

    return answer
