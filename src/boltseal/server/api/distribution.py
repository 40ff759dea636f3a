"""The distribution API under /v2/ as one ASGI application.

Path -> target (`paths`), target and method -> handler (the table below), handler -> response (`responses`). It does not
use pattern routing, because it is on the path of every pull.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias

from boltseal.errors import BoltsealError, SealedDelete, Unauthenticated, quote
from boltseal.oci.reference import NameInvalid, Repository, TagInvalid
from boltseal.policy.name_resolution import MirrorOnly
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.blobs import BlobRoutes
from boltseal.server.api.errors import MethodNotAllowed, NoSuchTag, RegistryReadOnly, RouteUnknown
from boltseal.server.api.history import HistoryRoutes
from boltseal.server.api.http_application import READS, HttpApplication, path_text, raw_path
from boltseal.server.api.layer_chains import ChainRoutes
from boltseal.server.api.listings import ListingRoutes
from boltseal.server.api.locations import Locations
from boltseal.server.api.manifests import ManifestRoutes
from boltseal.server.api.mirror import MirroredRoutes
from boltseal.server.api.paths import (
    BaseTarget,
    BlobTarget,
    CatalogTarget,
    ChainsTarget,
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
    route_of,
)
from boltseal.server.api.pipeline_pushes import PipelinePushes
from boltseal.server.api.push_proxy import PushProxyRoutes
from boltseal.server.api.records import RecordRoutes
from boltseal.server.api.refused_manifests import note_refused
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.settings import ApiSettings
from boltseal.server.api.uploads import UploadRoutes
from boltseal.server.auth.caller import EitherName
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.registry import Registry

Handler: TypeAlias = Callable[[Request, Any], Awaitable[Response]]
Table: TypeAlias = Mapping[type[Target], Mapping[str, Handler]]

_MAX_CACHED_PATHS: Final = 8192


@dataclass(frozen=True, slots=True)
class _Route:
    """The target of a path and its template, and for reads without a query the target after name resolution, its upstream.

    `resolved` None: the name resolution depends on the stored repositories and is repeated for each request.
    """

    target: Target
    template: str
    resolved: Target | None = None
    upstream: UpstreamTerms | None = None


class DistributionApi(HttpApplication):
    """The HTTP API of the registry: OCI distribution-spec 1.1.1 and additions of its main branch."""

    def __init__(
        self,
        registry: Registry,
        settings: ApiSettings,
        auth: RequestAuth,
        observer: RequestLog | None = None,
        mirror: MirrorCache | None = None,
        push_proxy: PushProxy | None = None,
    ) -> None:
        super().__init__(observer or RequestLog(), settings.body)
        self._names = settings.name_resolver
        self._pulls = registry.pulls
        self._refused_pushes = registry.refused_pushes
        locations = Locations(settings.public_url)
        self._table, self._read_handlers, self._push_handlers = _tables(
            registry, settings, locations, auth, mirror, push_proxy
        )
        self._auth = auth
        self._read_only = settings.read_only
        self._unavailable = settings.unavailable
        self._route = lru_cache(_MAX_CACHED_PATHS)(self._parse_route)

    async def _respond(self, request: Request) -> Response:
        scope = request.scope
        route = self._route(raw_path(scope))
        if route is None:
            raise RouteUnknown(f"{quote(path_text(scope))} is not a path of this registry; the API is under /v2/")
        target = route.target
        kind = type(target)
        request.route = route.template
        methods = self._table[kind]
        handler = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            allowed = _allowed(methods)
            raise MethodNotAllowed(f"{quote(scope['method'], 20)} is not allowed here; allowed: {allowed}", allowed)
        try:
            if route.resolved is None or scope["query_string"] or scope["method"] not in READS:
                target = await self._resolve(request, target)
            else:
                target, request.upstream = route.resolved, route.upstream
            if not isinstance(target, BaseTarget | CatalogTarget):
                request.repository = target.repository
            request.actor = await self._auth.admit(request, target)
            if scope["method"] not in READS:
                request.admit_again = partial(self._auth.admit, request, target)
                self._refuse_writes(_allowed({"GET": handler}))
            if request.upstream is not None and scope["method"] in READS:
                return _add_namespace(request, await self._read_handlers.get(kind, handler)(request, target))
            if request.upstream is not None:
                handler = self._push_handlers.get((kind, scope["method"]), handler)
            return await handler(request, target)
        except BoltsealError as error:
            await self._note_refused(request, target, error)
            raise

    async def _note_refused(self, request: Request, target: Target, error: BoltsealError) -> None:
        """Record the refusal of a push."""
        if request.method != "PUT" or not isinstance(target, ManifestTarget):
            return
        if isinstance(error, MirrorOnly):  # refused before the login was looked at
            with suppress(BoltsealError):
                await self._auth.authenticate(request)
        note_refused(self._refused_pushes, request, target, error)

    def _refuse_writes(self, allowed: str) -> None:
        """Raise why nothing may be written now, if so: RegistryReadOnly, or what `ApiSettings.unavailable` returns."""
        if self._read_only is not None:
            raise RegistryReadOnly(self._read_only, allowed)
        refusal = self._unavailable()
        if refusal is not None:
            raise refusal

    def _parse_route(self, path: bytes) -> _Route | None:
        """Return the route of a path, or None for an unknown path. Raises: NameInvalid and others, as `parse_path`."""
        target = parse_path(path)
        if target is None:
            return None
        if isinstance(target, BaseTarget | CatalogTarget) or target.repository is None:
            return _Route(target, route_of(target), target)
        try:
            resolution = self._names.by_name(target.repository)
        except NameInvalid:
            resolution = None  # `_resolve` raises it, unless `?ns=` selects another upstream
        if resolution is None:
            return _Route(target, route_of(target))
        return _Route(target, route_of(target), _with_repository(target, resolution.repository), resolution.upstream)

    async def _resolve(self, request: Request, target: Target) -> Target:
        """Return the target after name resolution, and set `upstream`.

        Raises: NamespaceUnknown, NamespaceRefused: `?ns=` is not served or not allowed. MirrorOnly: pushes are refused.
        """
        writes = request.method not in READS
        namespace = request.query.value("ns")
        if isinstance(target, BaseTarget | CatalogTarget) or target.repository is None:
            self._names.check_namespace(namespace, writes=writes)
            return target
        asks = self._names.needs_store(target.repository, namespace, writes=writes)
        known = asks and await self._pulls.known(target.repository)
        at_root = self._names.at_root(target.repository) if asks else None
        request.either = None if at_root is None else EitherName(target.repository, at_root)
        resolution = self._names.resolve(
            target.repository,
            namespace,
            pushes=writes and request.method != "DELETE",
            writes=writes,
            known_here=lambda _: known,
        )
        request.upstream = resolution.upstream
        return _with_repository(target, resolution.repository)

    def _may_pull(self, request: Request) -> bool:
        try:
            return request.repository is None or self._auth.may_pull(request, request.repository)
        except BoltsealError:  # the users cannot be read now
            return False

    def _refusal(self, request: Request, error: BoltsealError) -> Response:
        if isinstance(error, TagInvalid) and request.method in READS:
            # The spec requires 404 for an unknown manifest, also for a tag that could not have been pushed.
            error = NoSuchTag(f"manifest unknown: {error.message}")
        return super()._refusal(request, error)

    def _error_headers(self, request: Request, error: BoltsealError) -> Headers:
        if isinstance(error, SealedDelete):
            return self._allow(request)
        return self._auth.challenge(error) if isinstance(error, Unauthenticated) else ()

    def _allow(self, request: Request) -> Headers:
        """Return the `Allow` header of a refused delete."""
        route = self._route(raw_path(request.scope))
        methods: Mapping[str, Handler] = {} if route is None else self._table[type(route.target)]
        return ((b"allow", _allowed(methods, without="DELETE").encode("ascii")),)


def _tables(
    registry: Registry,
    settings: ApiSettings,
    locations: Locations,
    auth: RequestAuth,
    mirror: MirrorCache | None,
    push_proxy: PushProxy | None,
) -> tuple[Table, Mapping[type[Target], Handler], Mapping[tuple[type[Target], str], Handler]]:
    """Return the handlers of all routes, and those that replace them for reads and pushes of upstreams' repositories.

    HEAD uses the handler of GET.
    """
    pipeline_pushes = PipelinePushes(auth, registry.pulls, registry.rules)
    manifests = ManifestRoutes(
        registry.pulls, registry.manifests, registry.deletes, locations, settings, pipeline_pushes
    )
    blobs = BlobRoutes(registry.pulls, registry.deletes, settings)
    uploads = UploadRoutes(registry.uploads, locations, auth)
    listings = ListingRoutes(registry.pulls, auth)
    history = HistoryRoutes(registry.ledger, registry.observed)
    records = RecordRoutes(registry.records, registry.ledger, pipeline_pushes)
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
        ObservationsTarget: {"GET": history.observations},
        RecordsTarget: {"GET": records.list, "POST": records.add},
        ChainsTarget: {"GET": ChainRoutes(registry.layer_chains).list},
        UploadTarget: {
            "GET": uploads.status,
            "PATCH": uploads.append,
            "PUT": uploads.finish,
            "DELETE": uploads.cancel,
        },
    }
    if mirror is None or push_proxy is None:
        return table, {}, {}
    mirrored = MirroredRoutes(mirror, manifests, blobs)
    gated = PushProxyRoutes(mirror, push_proxy, manifests, uploads)
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


def _with_repository(target: Target, repository: Repository) -> Target:
    """Return the target with another repository."""
    if isinstance(target, BaseTarget | CatalogTarget) or repository == target.repository:
        return target
    return replace(target, repository=repository)


def _add_namespace(request: Request, response: Response) -> Response:
    """Add the `OCI-Namespace` header if the request had `?ns=` ("Registry Proxying" in the spec)."""
    namespace = request.query.value("ns") if request.scope["query_string"] else None
    if namespace is not None and request.upstream is not None:
        response.headers = (*response.headers, (b"oci-namespace", namespace.lower().encode("ascii")))
    return response


def _allowed(methods: Mapping[str, Handler], without: str = "") -> str:
    """Return the value of an `Allow` header."""
    names = [name for method in methods for name in (("GET", "HEAD") if method == "GET" else (method,))]
    return ", ".join(name for name in names if name != without)
