"""The distribution API as one ASGI application for everything under /v2/: one table in the shell (`shell`).

Path -> target (`paths`), target and method -> handler (the table below), handler -> answer (`responses`). There is no
routing by pattern and no request object in between: this is what every pull waits for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

from boltseal.errors import BoltsealError, SealedDelete, Unauthenticated, quote
from boltseal.oci.reference import NameInvalid, Repository, TagInvalid
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.blobs import BlobRoutes
from boltseal.server.api.errors import MethodNotAllowed, NoSuchTag, RouteUnknown
from boltseal.server.api.history import HistoryRoutes
from boltseal.server.api.http_application import READS, HttpApplication, raw_path, shown
from boltseal.server.api.listings import ListingRoutes
from boltseal.server.api.locations import Locations
from boltseal.server.api.manifests import ManifestRoutes
from boltseal.server.api.mirror import MirroredRoutes
from boltseal.server.api.paths import (
    BaseTarget,
    BlobTarget,
    CatalogTarget,
    DiscoverTarget,
    HistoryTarget,
    ManifestTarget,
    ObservationsTarget,
    RecordsTarget,
    ReferrersTarget,
    TagHistoryTarget,
    TagListTarget,
    Target,
    UploadsTarget,
    UploadTarget,
    parse_path,
)
from boltseal.server.api.push_proxy import PushProxyRoutes
from boltseal.server.api.records import RecordRoutes
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.settings import ApiSettings
from boltseal.server.api.uploads import UploadRoutes
from boltseal.server.mirror.cache import Mirror
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.registry import Registry

Handler: TypeAlias = Callable[[Request, Any], Awaitable[Response]]
Table: TypeAlias = Mapping[type[Target], Mapping[str, Handler]]

_PATHS_KEPT: Final = 8192


@dataclass(frozen=True, slots=True)
class _Place:
    """What a path is about: as it was sent; and, for a read without a query, where its name leads and whose that is.

    `led` None: what is here decides that, each time.
    """

    target: Target
    led: Target | None = None
    upstream: UpstreamTerms | None = None


class DistributionApi(HttpApplication):
    """The registry over HTTP, OCI distribution-spec 1.1.1 and what its main branch adds. Not for lifespan events."""

    def __init__(
        self,
        registry: Registry,
        settings: ApiSettings,
        gate: RequestAuth,
        observer: RequestLog | None = None,
        mirror: Mirror | None = None,
        push_gate: PushProxy | None = None,
    ) -> None:
        super().__init__(observer or RequestLog(), settings.body)
        self._leads = settings.leads
        self._pulls = registry.pulls
        locations = Locations(settings.public_url)
        self._table, self._mirrored, self._gated = _tables(registry, settings, locations, gate, mirror, push_gate)
        self._gate = gate
        self._read_only = settings.read_only
        self._place = lru_cache(_PATHS_KEPT)(self._look_at)

    async def _answer(self, call: Request) -> Response:
        scope = call.scope
        place = self._place(raw_path(scope))
        if place is None:
            raise RouteUnknown(f"{quote(shown(scope))} is nothing this registry has; the API is under /v2/")
        target = place.target
        kind = type(target)
        call.route = kind.__name__
        methods = self._table[kind]
        handler = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            allowed = _allowed(methods)
            raise MethodNotAllowed(f"{quote(scope['method'], 20)} is not possible here; possible: {allowed}", allowed)
        if place.led is None or scope["query_string"] or scope["method"] not in READS:
            target = await self._led(call, target)
        else:
            target, call.upstream = place.led, place.upstream
        call.actor = await self._gate.admit(call, target)
        if scope["method"] not in READS:
            read_only = self._read_only()
            if read_only is not None:
                raise MethodNotAllowed(read_only, _allowed({"GET": handler}))
        if call.upstream is not None and scope["method"] in READS:
            return _namespaced(call, await self._mirrored.get(kind, handler)(call, target))
        if call.upstream is not None:
            handler = self._gated.get((kind, scope["method"]), handler)
        return await handler(call, target)

    def _look_at(self, path: bytes) -> _Place | None:
        """What a path is about, None for nothing. NameInvalid, ... as `parse_path`."""
        target = parse_path(path)
        if target is None:
            return None
        if isinstance(target, BaseTarget | CatalogTarget) or target.repository is None:
            return _Place(target, target)
        try:
            lead = self._leads.by_name(target.repository)
        except NameInvalid:
            lead = None  # said by `_led`, unless the query leads it elsewhere
        return _Place(target) if lead is None else _Place(target, _about(target, lead.repository), lead.upstream)

    async def _led(self, call: Request, target: Target) -> Target:
        """What a request is about once its name has led where it leads. NamespaceUnknown, NamespaceRefused, MirrorOnly."""
        writes = call.method not in READS
        namespace = call.query.one("ns")
        if isinstance(target, BaseTarget | CatalogTarget) or target.repository is None:
            self._leads.check_namespace(namespace, writes=writes)
            return target
        asks = self._leads.needs_store(target.repository, namespace, writes=writes)
        known = asks and await self._pulls.known(target.repository)
        lead = self._leads.lead(
            target.repository,
            namespace,
            pushes=writes and call.method != "DELETE",
            writes=writes,
            known_here=lambda _: known,
        )
        call.upstream = lead.upstream
        return _about(target, lead.repository)

    def _refusal(self, call: Request, error: BoltsealError) -> Response:
        if isinstance(error, TagInvalid) and call.method in READS:
            # The spec has 404 for a manifest that can't be found, also under a name that no push could have given.
            error = NoSuchTag(f"there is no such manifest: {error.message}")
        return super()._refusal(call, error)

    def _extra(self, call: Request, error: BoltsealError) -> Headers:
        if isinstance(error, SealedDelete):
            return self._allow(call)
        return self._gate.challenge(error) if isinstance(error, Unauthenticated) else ()

    def _allow(self, call: Request) -> Headers:
        """What is possible where a delete is not."""
        place = self._place(raw_path(call.scope))
        methods: Mapping[str, Handler] = {} if place is None else self._table[type(place.target)]
        return ((b"allow", _allowed(methods, without="DELETE").encode("ascii")),)


def _tables(
    registry: Registry,
    settings: ApiSettings,
    locations: Locations,
    gate: RequestAuth,
    mirror: Mirror | None,
    push_gate: PushProxy | None,
) -> tuple[Table, Mapping[type[Target], Handler], Mapping[tuple[type[Target], str], Handler]]:
    """Every route of the API, and what reads of, and pushes to, upstreams' repositories go to instead.

    HEAD goes where GET goes.
    """
    manifests = ManifestRoutes(registry.pulls, registry.manifests, registry.deletes, locations, settings)
    blobs = BlobRoutes(registry.pulls, registry.deletes, settings)
    uploads = UploadRoutes(registry.uploads, locations, gate)
    listings = ListingRoutes(registry.pulls, gate)
    history = HistoryRoutes(registry.ledger, registry.observed)
    records = RecordRoutes(registry.records, registry.ledger)
    table: Table = {
        BaseTarget: {"GET": listings.base},
        CatalogTarget: {"GET": listings.catalog},
        TagListTarget: {"GET": listings.tags},
        ReferrersTarget: {"GET": listings.referrers},
        ManifestTarget: {"GET": manifests.get, "PUT": manifests.put, "DELETE": manifests.delete},
        BlobTarget: {"GET": blobs.get, "DELETE": blobs.delete},
        UploadsTarget: {"POST": uploads.start},
        DiscoverTarget: {"GET": history.discover},
        TagHistoryTarget: {"GET": history.tag_history},
        HistoryTarget: {"GET": history.history},
        ObservationsTarget: {"GET": history.observed},
        RecordsTarget: {"GET": records.listed, "POST": records.add},
        UploadTarget: {
            "GET": uploads.status,
            "PATCH": uploads.append,
            "PUT": uploads.finish,
            "DELETE": uploads.cancel,
        },
    }
    if mirror is None or push_gate is None:
        return table, {}, {}
    mirrored = MirroredRoutes(mirror, manifests, blobs)
    gated = PushProxyRoutes(mirror, push_gate, manifests, uploads)
    reads: dict[type[Target], Handler] = {
        ManifestTarget: mirrored.manifest,
        BlobTarget: mirrored.blob,
        TagListTarget: mirrored.tags,
        ReferrersTarget: mirrored.referrers,
    }
    pushes: dict[tuple[type[Target], str], Handler] = {
        (ManifestTarget, "PUT"): gated.put,
        (UploadsTarget, "POST"): gated.start,
        (UploadTarget, "PUT"): gated.finish,
    }
    return table, reads, pushes


def _about(target: Target, repository: Repository) -> Target:
    """The same place in another repository."""
    if isinstance(target, BaseTarget | CatalogTarget) or repository == target.repository:
        return target
    return replace(target, repository=repository)


def _namespaced(call: Request, answer: Response) -> Response:
    """Says whose names the answer is about, where the request said so ("Registry Proxying" in the spec)."""
    namespace = call.query.one("ns") if call.scope["query_string"] else None
    if namespace is not None and call.upstream is not None:
        answer.headers = (*answer.headers, (b"oci-namespace", namespace.lower().encode("ascii")))
    return answer


def _allowed(methods: Mapping[str, Handler], without: str = "") -> str:
    """The value of `Allow`."""
    names = [name for method in methods for name in (("GET", "HEAD") if method == "GET" else (method,))]
    return ", ".join(name for name in names if name != without)
