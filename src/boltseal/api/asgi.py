"""The distribution API as one ASGI application for everything under /v2/: one table, one shell.

Path -> target (`paths`), target and method -> handler (the table below), handler -> answer (`responses`). Around it
the outermost shell: an error that is meant for a person becomes its answer; a client that left ends the matter
quietly; anything unforeseen is a 500 that says a number, under which the log has the traceback, and nothing else.
There is no routing by pattern and no request object in between: this is what every pull waits for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, TypeAlias

import structlog
from starlette.types import Receive, Scope, Send

from boltseal.api.blobs import BlobRoutes
from boltseal.api.call import Call
from boltseal.api.errors import (
    ClientGone,
    MethodNotAllowed,
    NoSuchTag,
    RouteUnknown,
)
from boltseal.api.gate import Gate
from boltseal.api.listings import ListingRoutes
from boltseal.api.locations import Locations
from boltseal.api.manifests import ManifestRoutes
from boltseal.api.observer import Observer
from boltseal.api.paths import (
    Base,
    BlobAt,
    Catalog,
    ManifestAt,
    Referrers,
    Tags,
    Target,
    UploadAt,
    Uploads,
    parse_path,
)
from boltseal.api.responses import Answer, Headers, failure, refusal
from boltseal.api.settings import ApiSettings
from boltseal.api.uploads import UploadRoutes
from boltseal.errors import BoltsealError, ErrorCode, SealedDelete, Unauthenticated, quote
from boltseal.oci.reference import TagInvalid
from boltseal.registry import Registry

Handler: TypeAlias = Callable[[Call, Any], Awaitable[Answer]]
Table: TypeAlias = Mapping[type[Target], Mapping[str, Handler]]

_READS: Final = frozenset({"GET", "HEAD"})
_PATHS_KEPT: Final = 8192

_log = structlog.get_logger(__name__)


class DistributionApi:
    """The registry over HTTP, OCI distribution-spec 1.1.1 and what its main branch adds. Not for lifespan events."""

    def __init__(self, registry: Registry, settings: ApiSettings, gate: Gate, observer: Observer | None = None) -> None:
        self._observer = observer or Observer()
        self._locations = Locations(settings.public_url)
        self._table = _table(registry, settings, self._locations, gate)
        self._gate = gate
        self._read_only = settings.read_only
        self._parse = lru_cache(_PATHS_KEPT)(parse_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        started = perf_counter()
        call = Call(scope, receive, self._observer.next_id())
        try:
            answer = await self._answer(call)
        except BoltsealError as error:
            answer = self._refusal(call, error)
        except ClientGone:
            self._observer.note(call, None, started)
            return
        except Exception:  # noqa: BLE001 - the outermost shell: nothing unforeseen leaves as it is
            answer = _defect(call)
        answer.headers = (*answer.headers, (b"x-request-id", call.id.encode("ascii")))
        try:
            await answer.send(scope, receive, send)
            if scope["method"] not in _READS:
                await call.take_leave()
        except OSError:
            pass  # how a server says that the client has left
        except Exception:  # noqa: BLE001 - headers are out: all that is left to say is a connection that breaks
            _log.exception("answer broken off", method=call.method, path=_shown(scope))
        self._observer.note(call, answer, started)

    async def _answer(self, call: Call) -> Answer:
        scope = call.scope
        target = self._parse(_raw_path(scope))
        if target is None:
            raise RouteUnknown(f"{quote(_shown(scope))} is nothing this registry has; the API is under /v2/")
        kind = type(target)
        call.route = kind.__name__
        methods = self._table[kind]
        handler = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            allowed = _allowed(methods)
            raise MethodNotAllowed(f"{quote(scope['method'], 20)} is not possible here; possible: {allowed}", allowed)
        if scope["query_string"]:
            self._locations.refuse_other_namespaces(call.query, writes=scope["method"] not in _READS)
        call.actor = await self._gate.admit(call, target)
        if self._read_only is not None and scope["method"] not in _READS:
            raise MethodNotAllowed(self._read_only, _allowed({"GET": handler}))
        return await handler(call, target)

    def _refusal(self, call: Call, error: BoltsealError) -> Answer:
        """The answer that an error is."""
        if isinstance(error, TagInvalid) and call.method in _READS:
            # The spec has 404 for a manifest that can't be found, also under a name that no push could have given.
            error = NoSuchTag(f"there is no such manifest: {error.message}")
        self._observer.totals.refusal(type(error).__name__)
        extra = self._gate.challenge(error) if isinstance(error, Unauthenticated) else ()
        answer = refusal(error, self._allow(call) if isinstance(error, SealedDelete) else extra)
        if answer.status >= 500:
            at = {"method": call.method, "path": _shown(call.scope)}
            _log.warning("could not serve", **at, status=answer.status, reason=error.message)
            _log.debug("could not serve, where", **at, exc_info=error)
        return answer

    def _allow(self, call: Call) -> Headers:
        """What is possible where a delete is not."""
        target = self._parse(_raw_path(call.scope))
        methods: Mapping[str, Handler] = {} if target is None else self._table[type(target)]
        return ((b"allow", _allowed(methods, without="DELETE").encode("ascii")),)


def _table(registry: Registry, settings: ApiSettings, locations: Locations, gate: Gate) -> Table:
    """Every route of the API. HEAD goes where GET goes."""
    manifests = ManifestRoutes(registry.pulls, registry.manifests, registry.deletes, locations, settings)
    blobs = BlobRoutes(registry.pulls, registry.deletes, settings)
    uploads = UploadRoutes(registry.uploads, locations, gate)
    listings = ListingRoutes(registry.pulls, gate)
    return {
        Base: {"GET": listings.base},
        Catalog: {"GET": listings.catalog},
        Tags: {"GET": listings.tags},
        Referrers: {"GET": listings.referrers},
        ManifestAt: {"GET": manifests.get, "PUT": manifests.put, "DELETE": manifests.delete},
        BlobAt: {"GET": blobs.get, "DELETE": blobs.delete},
        Uploads: {"POST": uploads.start},
        UploadAt: {
            "GET": uploads.status,
            "PATCH": uploads.append,
            "PUT": uploads.finish,
            "DELETE": uploads.cancel,
        },
    }


def _allowed(methods: Mapping[str, Handler], without: str = "") -> str:
    """The value of `Allow`."""
    names = [name for method in methods for name in (("GET", "HEAD") if method == "GET" else (method,))]
    return ", ".join(name for name in names if name != without)


def _raw_path(scope: Scope) -> bytes:
    """The path as it was sent. A server that does not tell gives it decoded, and then every escape is refused."""
    raw: bytes | None = scope.get("raw_path")
    return scope["path"].encode() if raw is None else raw


def _shown(scope: Scope) -> str:
    return _raw_path(scope).decode("ascii", "backslashreplace")


def _defect(call: Call) -> Answer:
    """The answer to a request that found a defect of ours. Called where the exception is being handled."""
    _log.exception("defect", request_id=call.id, method=call.method, path=_shown(call.scope))
    message = f"this registry failed on the request; its log has the reason under {call.id}"
    return failure(500, ErrorCode.UNSUPPORTED, message)
