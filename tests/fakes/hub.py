"""A registry in memory that behaves as Docker Hub: tokens, quotas, pages, redirects; it counts requests and fails on
request.

It has what clients ask for: HEAD and GET of manifests, blobs, tags, histories, the token service, and Docker Hub's
own list of tags. It answers at any host name; `counted` has the number of requests of each kind. `counting`: the host
at which a GET of a manifest uses one pull, and is refused when none is left.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from boltseal.oci.digest import Digest
from boltseal.server.api.in_process import InProcessHttp


@dataclass
class FakeHub:
    """`manifests[repository][tag or digest] = (media type, bytes)`; `blobs[digest] = bytes`."""

    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    counted_at: Counter[str] = field(default_factory=Counter)
    realm: str = "https://auth.test/token"
    users: dict[str, str] = field(default_factory=dict)
    quota: int | None = None
    counting: str = ""
    failures: list[Response] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    wrong_bytes: bool = False
    blobs_at: str | None = None
    page: int = 2
    closed: str = ""
    denied: set[str] = field(default_factory=set)
    """Digests of manifests that are refused with 403."""
    private: str = ""
    breaks: int = 0
    ranges: bool = True
    histories: dict[str, bytes] = field(default_factory=dict)
    most_scopes: int | None = None
    longest_token: int | None = None
    breaks_off: bool = False
    lists: bool = False
    """Whether there is a list of tags with their digests."""
    broken_list: bytes | None = None
    lagging: dict[str, Digest | None] = field(default_factory=dict)
    """The digest that the list still has for a name (`library/node:16.13`), instead of the current one; None: no entry."""

    def publish(self, repository: str, tag: str, body: bytes, media_type: str) -> Digest:
        digest = Digest.of(body)
        held = self.manifests.setdefault(repository, {})
        held[tag] = held[str(digest)] = (media_type, body)
        return digest

    def transport(self) -> InProcessHttp:
        return InProcessHttp(self.app())

    def app(self) -> Starlette:
        methods = ["GET", "HEAD"]
        return Starlette(
            routes=[
                Route("/token", self.token, methods=["GET", "POST"]),
                Route("/v2/", self.base),
                Route("/v2/{name:path}/manifests/{reference}", self.manifest, methods=methods),
                Route("/v2/{name:path}/blobs/{digest}", self.blob, methods=methods),
                Route("/v2/repositories/{name:path}/tags", self.listing),
                Route("/v2/{name:path}/tags/list", self.tags),
                Route("/v2/{name:path}/_oci/tag-history/{tag}", self.history),
            ]
        )

    async def token(self, request: Request) -> Response:
        self.counted["token"] += 1
        self.seen.append(request)
        scopes = request.query_params.getlist("scope")
        if self.most_scopes is not None and len(scopes) > self.most_scopes:
            return self._too_long(414)
        if any(self.closed and self.closed in scope for scope in scopes):
            return _error(403, "DENIED", "requested access to the resource is denied")
        scopes = [scope for scope in scopes if not self.private or self.private not in scope]
        return JSONResponse({"token": "t-" + "+".join(scopes).replace(" ", "_"), "expires_in": 300})

    async def base(self, _: Request) -> Response:
        return self._challenge("")

    async def manifest(self, request: Request) -> Response:
        name, reference = request.path_params["name"], request.path_params["reference"]
        await asyncio.sleep(0)  # as on a network, other requests run meanwhile
        refused = self._refuse(request, name)
        if refused is not None:
            return refused
        self.counted[f"{request.method} manifest"] += 1
        self.counted_at[f"{request.method} manifest at {request.url.hostname}"] += 1
        found = self.manifests.get(name, {}).get(reference)
        if reference in self.denied:
            return _error(403, "DENIED", "requested access to the resource is denied")
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        if self.counting == request.url.hostname and request.method == "GET" and self.quota is not None:
            if self.quota == 0:
                return _error(429, "TOOMANYREQUESTS", "you have reached your pull rate limit")
            self.quota -= 1
        media_type, body = found
        headers = {"docker-content-digest": str(Digest.of(body))}
        if self.quota is not None:
            headers |= {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": f"{self.quota};w=21600"}
        return Response(body + b" " if self.wrong_bytes else body, media_type=media_type, headers=headers)

    async def blob(self, request: Request) -> Response:
        name, digest = request.path_params["name"], request.path_params["digest"]
        if "cdn.test" not in str(request.url):
            refused = self._refuse(request, name)
            if refused is not None:
                return refused
            if self.blobs_at is not None:
                return RedirectResponse(f"{self.blobs_at}{request.url.path}")
        self.seen.append(request)
        self.counted[f"{request.method} blob"] += 1
        body = self.blobs.get(digest)
        if body is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown")
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        start = start if self.ranges else 0
        if self.breaks:
            self.breaks -= 1
            return Response(body[: len(body) // 2])
        return Response(body[start:] + (b"!" if self.wrong_bytes else b""), status_code=206 if start else 200)

    async def tags(self, request: Request) -> Response:
        name = request.path_params["name"]
        refused = self._refuse(request, name)
        if refused is not None:
            return refused
        names = sorted(tag for tag in self.manifests.get(name, {}) if ":" not in tag)
        last = request.query_params.get("last", "")
        rest = [tag for tag in names if tag > last]
        shown, more = rest[: self.page], len(rest) > self.page
        headers = {"link": f'</v2/{name}/tags/list?n={self.page}&last={shown[-1]}>; rel="next"'} if more else {}
        return JSONResponse({"name": name, "tags": shown}, headers=headers)

    async def listing(self, request: Request) -> Response:
        name, page = request.path_params["name"], int(request.query_params["page"])
        size = int(request.query_params["page_size"])
        self.counted["list"] += 1
        if not self.lists:
            return JSONResponse({"message": "object not found"}, 404)
        if self.broken_list is not None:
            return Response(self.broken_list)
        tags = [tag for tag in self.manifests.get(name, {}) if ":" not in tag][::-1]
        shown = tags[(page - 1) * size : page * size]
        results: Any = [{"name": tag, "digest": self._listed(name, tag), "images": [], "full_size": 1} for tag in shown]
        more = f"https://hub.docker.com{request.url.path}?page={page + 1}" if page * size < len(tags) else None
        return JSONResponse({"count": len(tags), "next": more, "previous": None, "results": results})

    def _listed(self, name: str, tag: str) -> str | None:
        digest = self.lagging.get(f"{name}:{tag}", Digest.of(self.manifests[name][tag][1]))
        return None if digest is None else str(digest)

    async def history(self, request: Request) -> Response:
        name, tag = request.path_params["name"], request.path_params["tag"]
        refused = self._refuse(request, name)
        if refused is not None:
            return refused
        self.counted["history"] += 1
        recorded = self.histories.get(f"{name}:{tag}")
        return _error(404, "UNSUPPORTED", "no such route") if recorded is None else Response(recorded)

    def _refuse(self, request: Request, name: str) -> Response | None:
        self.seen.append(request)
        if self.failures:
            return self.failures.pop(0)
        scope = f"repository:{name}:pull"
        authorization = request.headers.get("authorization", "")
        if self.longest_token is not None and len(authorization) > self.longest_token:
            return self._too_long(431)
        if authorization.startswith("Bearer t-") and scope in authorization.removeprefix("Bearer t-").split("+"):
            return None
        return self._challenge(scope, held=bool(authorization))

    def _too_long(self, status: int) -> Response:
        self.counted["too long"] += 1
        if self.breaks_off:
            raise httpx2.RemoteProtocolError("Server disconnected without sending a response.")
        return Response("<h1>too large</h1>", status_code=status)

    def _challenge(self, scope: str, *, held: bool = False) -> Response:
        answer = _error(401, "UNAUTHORIZED", "authentication required")
        answer.headers["www-authenticate"] = f'Bearer realm="{self.realm}",service="hub.test",scope="{scope}"'
        if held:
            answer.headers["www-authenticate"] += ',error="insufficient_scope"'
        return answer


def _error(status: int, code: str, message: str) -> Response:
    body: dict[str, Any] = {"errors": [{"code": code, "message": message}]}
    return Response(json.dumps(body), status_code=status, media_type="application/json")
