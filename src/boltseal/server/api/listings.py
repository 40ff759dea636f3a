"""Lists over HTTP: the tags of a repository (end-8), the repositories, and the referrers of a manifest (end-12).

Pages have a fixed order and a relative Link (RFC 8288) to the next page exactly if there is one. `n=0` is an empty page
without a Link. A referrers response is never a 404, and never larger than the manifests that clients accept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from boltseal.oci.manifest import format_index
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Repository, Tag
from boltseal.server.api import responses
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.paths import BaseTarget, CatalogTarget, ReferrersTarget, TagListTarget
from boltseal.server.api.query import link_next
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.models import Page, ReferrerRow, ReferrersPage
from boltseal.server.registry.pulls import Pulls

REFERRERS_PAGE_BYTES: Final = 2 * 1024 * 1024
"""Approximate limit of a referrers response; clients refuse manifests over 4 MiB."""

SETTLING_HEADER: Final = b"boltseal-settling"
"""The tags of a page that are settling, separated by spaces: the first fifty."""

_ROW_BYTES: Final = 300
"""Approximate size of a referrer without its annotations."""


class ListingRoutes:
    """The handlers of `BaseTarget`, `CatalogTarget`, `TagListTarget` and `ReferrersTarget`."""

    def __init__(self, pulls: Pulls, auth: RequestAuth) -> None:
        self._pulls = pulls
        self._auth = auth

    async def base(self, request: Request, target: BaseTarget) -> Response:
        """Confirm that this is the distribution API (end-1)."""
        return responses.with_body(b"{}", extra=[(b"docker-distribution-api-version", b"registry/2.0")])

    async def catalog(self, request: Request, target: CatalogTarget) -> Response:
        """Return a page of the repositories that have content and that the caller may pull."""
        n, last = request.query.page_size(), request.query.value("last")
        page = await self._pulls.catalog(n, last, may_read=self._auth.may_list(request))
        return _page({"repositories": page.items}, "/v2/_catalog", n, page.items[-1:] if page.more else ())

    async def tags(self, request: Request, target: TagListTarget) -> Response:
        """Return a page of the tags of a repository."""
        n, last = request.query.page_size(), request.query.value("last")
        return tags_response(target.repository, await self._pulls.tags(target.repository, n, last), n)

    async def referrers(self, request: Request, target: ReferrersTarget) -> Response:
        """Return an index of the manifests whose subject is this digest, optionally of one artifact type."""
        n, last = request.query.page_size(), request.query.value("last")
        artifact_type = request.query.value("artifactType") or None
        found = await self._pulls.referrers(target.repository, target.digest, artifact_type, after=last or "", n=n)
        return referrers_response(target, found, artifact_type, n)


def tags_response(repository: Repository, page: Page[Tag], n: int) -> Response:
    """Return the response for a page of tags."""
    path = f"/v2/{repository}/tags/list"
    more = [(SETTLING_HEADER, " ".join(page.settling).encode())] if page.settling else []
    return _page({"name": repository, "tags": page.items}, path, n, page.items[-1:] if page.more else (), more)


def referrers_response(target: ReferrersTarget, found: ReferrersPage, artifact_type: str | None, n: int) -> Response:
    """Return the response for a page of referrers, shortened to the size limit."""
    page = _limit_size(found.rows)
    extra = [] if artifact_type is None else [(b"oci-filters-applied", b"artifactType")]
    if page and (found.more or len(page) < len(found.rows)):
        kept = {} if artifact_type is None else {"artifactType": artifact_type}
        path = f"/v2/{target.repository}/referrers/{target.digest}"
        extra.append((b"link", link_next(path, {**kept, "n": str(n), "last": _digest_text(page[-1])})))
    return responses.with_body(format_index(page), OCI_INDEX, extra=extra)


def _digest_text(row: ReferrerRow) -> str:
    return str(row.digest)


def _limit_size(rows: Sequence[ReferrerRow]) -> list[ReferrerRow]:
    """Return as many of the first rows as fit into a page, at least one."""
    page: list[ReferrerRow] = []
    size = 0
    for row in rows:
        size += _ROW_BYTES + len(row.artifact_type or "") + sum(map(len, chain.from_iterable(row.annotations.items())))
        if page and size > REFERRERS_PAGE_BYTES:
            break
        page.append(row)
    return page


def _page(
    document: object, path: str, n: int, last: Iterable[str], more: Sequence[tuple[bytes, bytes]] = ()
) -> Response:
    """Return a page of names. `last`: the last name if more follow, otherwise empty. `more`: further headers."""
    extra = [(b"link", link_next(path, {"n": str(n), "last": name})) for name in last if n]
    extra += more
    return responses.with_body(json.dumps(document, separators=(",", ":")).encode(), extra=extra)
