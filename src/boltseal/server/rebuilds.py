"""A server that looks at its own images: which stand on an old base, and what `[[on_outdated]]` says is then done.

The look is the one that `boltseal outdated` has. It talks to ourselves within the process, past the logins, and by GET and
HEAD alone; to an upstream of ours through our own mirror, so that what is served here is what counts; to other registries
over the network, as nobody, and only to those that anybody may ask: what a pushed label names is no host of ours.

    DATA/outdated/    what was learned of other registries, which rebuilds were asked for, and the lock of who looks
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import httpx2
import structlog

from boltseal.client.catalog import repositories
from boltseal.client.credentials import CredentialStore
from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_trust import LedgerCheck, LedgerWatch, TrustStatus
from boltseal.client.registry_client import RegistryClient
from boltseal.client.state import ClientState
from boltseal.client.transport import MAX_DOCUMENT_BYTES, RegistryRequest, RegistryResponse, Transport, TransportOptions
from boltseal.config import secret
from boltseal.errors import BoltsealError, Denied, NotFound
from boltseal.ledger.entry import EntryKind
from boltseal.oci.reference import Reference
from boltseal.policy.grants import Grants
from boltseal.policy.rebuild_actions import token_of
from boltseal.policy.rule_decision import signature_subject
from boltseal.project.bases.base_scan import BaseScanner, ImageToCheck
from boltseal.project.bases.image_documents import ImageDocuments
from boltseal.project.bases.ledger_entries import requested_extra
from boltseal.project.bases.rebuild_journal import RebuildJournal, RebuildOutcome
from boltseal.project.bases.rebuild_requests import RebuildDue, Rebuilder, RebuildResult
from boltseal.project.bases.tag_history import TagHistories, by_learned
from boltseal.project.settings import PUBLIC_REGISTRIES
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.distribution import DistributionApi
from boltseal.server.api.ledger import PREFIX as LEDGER_PREFIX
from boltseal.server.api.ledger import LedgerApi
from boltseal.server.api.settings import ApiSettings
from boltseal.server.auth.access import Access
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.logins import Logins
from boltseal.server.auth.tokens import Tokens
from boltseal.server.registry.records import LedgerRecord
from boltseal.server.storage.key_file import KeyFile
from boltseal.server.storage.users import UserFile

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from boltseal.events import BaseOutdated
    from boltseal.server.mirror.cache import Mirror
    from boltseal.server.mirror.push_proxy import PushProxy
    from boltseal.server.settings import Settings
    from boltseal.server.store_factory import OpenStore

FOLDER: Final = "outdated"
FIRST_S: Final = 60.0
MAX_ROUNDS: Final = 10
MAX_WORDS: Final = 20
"""How many rebuilds that are not asked for are named in the log at each look."""
AT_ONCE: Final = 2
"""How many images are read at a time: whoever pulls meanwhile waits for no more than these."""
MAX_KEPT_BYTES: Final = 64 * 1024
ACTOR: Final = Actor("boltseal")
_READS: Final = frozenset({"GET", "HEAD"})

_log = structlog.get_logger(__name__)


class ReadOnlyTransport(Denied):
    """Somebody wanted to change something past the logins."""


class InProcessTransport(Transport):
    """Requests to ourselves go to `inside`; to an upstream, to our own mirror of it; the rest over the network, as nobody."""

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
            app=None if outside is None else httpx2.ASGITransport(app=outside),
        )
        transport = httpx2.ASGITransport(app=inside)
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
        ways = Transport.stream(self, call) if own is None else self._inner.stream(own)
        async with ways as response:
            yield response

    def _own(self, call: RegistryRequest) -> RegistryRequest | None:
        """The same call as we are asked it, None where it is for somebody else. ReadOnlyTransport."""
        if call.registry in self._upstreams and call.path.startswith("/v2/"):
            call = replace(call, path=f"/v2/{call.registry}/{call.path.removeprefix('/v2/')}")
        elif call.registry != self._name and call.registry not in self._also:
            return None
        if call.method not in _READS:
            raise ReadOnlyTransport(f"{call.method} of {call.what} is not done past the logins")
        return replace(call, registry=self._name)


class RebuildScheduler:
    """Looks at all images of this registry as often as it is said, and asks for rebuilds. One process of a server does."""

    def __init__(
        self,
        settings: Settings,
        store: OpenStore,
        clock: Callable[[], int],
        on_outdated: Callable[[BaseOutdated], None],
        mirror: Mirror | None = None,
        push_proxy: PushProxy | None = None,
        *,
        outside: ASGIApp | None = None,
    ) -> None:
        self._settings = settings
        self._registry = store.registry
        self._clock = clock
        self._on_outdated = on_outdated
        self._upstreams = frozenset(terms.name for terms in settings.upstreams)
        self._inside = _inside(settings, store, mirror, push_proxy)
        self._outside = outside
        self._tokens = {
            name: token_of(name, secret(name)) for action in settings.actions if (name := action.token_env) is not None
        }
        self._state = ClientState(settings.server.data / FOLDER)
        self._name, *also = sorted(settings.own_names, key=lambda name: ("localhost" not in name, name))
        if settings.server.public_url is not None:
            also, self._name = [*also, self._name], settings.server.public_url.partition("://")[2]
        self._also = frozenset(also)

    async def run(self) -> None:
        """Until it is cancelled. What goes wrong is a line of the log, and tried again the next time."""
        every_s = min(action.every_us for action in self._settings.actions) / 1e6
        await asyncio.sleep(min(FIRST_S, every_s))
        while True:
            try:
                requested = await self.once()
            except BoltsealError as error:
                _log.warning("checking for outdated bases failed", reason=error.message)
            except Exception:  # noqa: BLE001 - the outermost shell of this task: without it nobody would look any more
                _log.exception("checking for outdated bases failed: internal error")
            else:
                _log.info("rebuilds requested", rebuilds=len(requested))
            await asyncio.sleep(every_s)

    async def once(self) -> list[RebuildResult]:
        """One look, and what was asked for by it; nothing where another process is at it. StateUnusable, LedgerBroken, ..."""
        with self._state.alone("looking") as alone:
            return await self._once() if alone else []

    async def _once(self) -> list[RebuildResult]:
        transport = InProcessTransport(self._inside, self._name, self._also, self._upstreams, outside=self._outside)
        rebuilder = Rebuilder(
            self._settings.actions,
            RebuildJournal(self._state),
            self._clock,
            record=self._record,
            tokens=self._tokens,
            tell=self._on_outdated,
        )
        found: list[RebuildResult] = []
        try:
            with DocumentCache(self._state, now_us=self._clock()) as learned:
                pasts = TagHistories(transport, [by_learned(learned)])
                looker = BaseScanner(
                    transport,
                    ImageDocuments(transport, learned, max_kept_bytes=MAX_KEPT_BYTES),
                    learned,
                    pasts,
                    allowed=self._allowed,
                    watch=self._watch(transport),
                    now_us=self._clock(),
                    at_once=AT_ONCE,
                )
                pasts.followed = looker.followed
                for _ in range(MAX_ROUNDS):
                    wanted = [ImageToCheck(str(one), one) async for one in self._images(transport)]
                    answers = await looker.look(wanted, afresh=bool(found))
                    if not found:
                        stand = Counter(str(one.verdict.status) for one in answers)
                        _log.info("images checked for outdated bases", images=len(answers), stand=dict(stand))
                        for words in rebuilder.sort(answers).words(MAX_WORDS):
                            _log.warning("rebuild not requested", reason=words)
                    asked = await rebuilder.rebuild(answers)
                    found += asked
                    if not any(one.outcome is RebuildOutcome.DONE and one.due.action.command for one in asked):
                        break
        finally:
            await transport.aclose()
        return found

    def _watch(self, transport: Transport) -> Callable[[str], Awaitable[LedgerCheck]]:
        watch = LedgerWatch(self._state, transport, lambda: self._clock() // 1_000_000)

        async def follow(registry: str) -> LedgerCheck:
            if registry in self._upstreams:  # what its tags mean is our mirror's word, and in our own log
                return LedgerCheck(registry, TrustStatus.NO_LEDGER)
            return await watch.follow(registry)

        return follow

    def _allowed(self, registry: str) -> bool:
        return registry == self._name or registry in self._also | self._upstreams or registry in PUBLIC_REGISTRIES

    async def _images(self, transport: Transport) -> AsyncIterator[Reference]:
        """Every tag of every repository of ours, but for those of the signature tools."""
        client = RegistryClient(transport, self._name)
        async for repository in repositories(transport, self._name):
            if repository.partition("/")[0] in self._upstreams:
                continue
            with contextlib.suppress(NotFound):
                async for tag in client.tags(repository):
                    if signature_subject(tag) is None:
                        yield Reference(self._name, repository, tag)

    async def _record(self, due: RebuildDue, outcome: RebuildOutcome, told: str) -> None:
        extra = requested_extra(due.base, due.built_on, due.now, str(outcome), told)
        said = LedgerRecord(EntryKind.REBUILD_REQUESTED, due.digest, due.image.tag, extra=extra)
        await self._registry.records.record(due.image.repository, said, ACTOR)


def _inside(settings: Settings, store: OpenStore, mirror: Mirror | None, push_proxy: PushProxy | None) -> ASGIApp:
    """What we answer, to ourselves: without logins, and without a line in the access log."""
    observer = RequestLog()
    logins = Logins(UserFile(settings.keys / "nobody"))  # a file that is not there: nobody is told apart
    tokens = Tokens(KeyFile(settings.keys / "token.json"), settings.auth.service, lambda: 0)
    auth = RequestAuth(Access(Grants(), logins, tokens, configured=False), None)
    api_settings = ApiSettings(
        read_only=lambda: "nothing is changed past the logins", name_resolver=settings.name_resolver
    )
    api = DistributionApi(store.registry, api_settings, auth, observer, mirror, push_proxy)
    ledger = LedgerApi(observer, store.registry.ledger, auth, public=True)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (ledger if scope["path"].startswith(LEDGER_PREFIX) else api)(scope, receive, send)

    return answer
