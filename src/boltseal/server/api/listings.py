"""Lists over HTTP: the tags of a repository (end-8), the repositories, and what refers to a manifest (end-12).

Rules kept here: pages in one order, with a Link to what follows (relative, RFC 8288) exactly when something
follows; `n=0` is an empty page without a Link; an answer about referrers is never a 404, and never larger than a
client would take as a manifest.
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
"""About how large an answer about referrers may get; clients refuse manifests over 4 MiB."""

_ROW_BYTES: Final = 300
"""What a referrer takes beside its annotations, about."""


class ListingRoutes:
    """The handlers of `Base`, `Catalog`, `Tags` and `Referrers`."""

    def __init__(self, pulls: Pulls, gate: RequestAuth) -> None:
        self._pulls = pulls
        self._gate = gate

    async def base(self, call: Request, at: BaseTarget) -> Response:
        """Yes, this is the API (end-1)."""
        return responses.whole(b"{}", extra=[(b"docker-distribution-api-version", b"registry/2.0")])

    async def catalog(self, call: Request, at: CatalogTarget) -> Response:
        """The repositories that hold something and that the caller may pull."""
        n, last = call.query.page_size(), call.query.one("last")
        page = await self._pulls.catalog(n, last, may_read=lambda name: self._gate.may_list(call, name))
        return _page({"repositories": page.items}, "/v2/_catalog", n, page.items[-1:] if page.more else ())

    async def tags(self, call: Request, at: TagListTarget) -> Response:
        """The tags of a repository."""
        n, last = call.query.page_size(), call.query.one("last")
        return tags_answer(at.repository, await self._pulls.tags(at.repository, n, last), n)

    async def referrers(self, call: Request, at: ReferrersTarget) -> Response:
        """What names this digest as its subject, of one artifact type if asked for; an index, empty if need be."""
        n, last = call.query.page_size(), call.query.one("last")
        artifact_type = call.query.one("artifactType") or None
        found = await self._pulls.referrers(at.repository, at.digest, artifact_type, after=last or "", n=n)
        return referrers_answer(at, found, artifact_type, n)


def tags_answer(repository: Repository, page: Page[Tag], n: int) -> Response:
    """The answer that a page of tags is."""
    path = f"/v2/{repository}/tags/list"
    return _page({"name": repository, "tags": page.items}, path, n, page.items[-1:] if page.more else ())


def referrers_answer(at: ReferrersTarget, found: ReferrersPage, artifact_type: str | None, n: int) -> Response:
    """The answer that a page of referrers is, or as much of it as fits."""
    page = _fitting(found.rows)
    extra = [] if artifact_type is None else [(b"oci-filters-applied", b"artifactType")]
    if page and (found.more or len(page) < len(found.rows)):
        kept = {} if artifact_type is None else {"artifactType": artifact_type}
        path = f"/v2/{at.repository}/referrers/{at.digest}"
        extra.append((b"link", link_next(path, {**kept, "n": str(n), "last": _by_digest(page[-1])})))
    return responses.whole(format_index(page), OCI_INDEX, extra=extra)


def _by_digest(row: ReferrerRow) -> str:
    return str(row.digest)


def _fitting(rows: Sequence[ReferrerRow]) -> list[ReferrerRow]:
    """As many rows from the start as make a page; one at least where there is one."""
    page: list[ReferrerRow] = []
    size = 0
    for row in rows:
        size += _ROW_BYTES + len(row.artifact_type or "") + sum(map(len, chain.from_iterable(row.annotations.items())))
        if page and size > REFERRERS_PAGE_BYTES:
            break
        page.append(row)
    return page


def _page(document: object, path: str, n: int, behind: Iterable[str]) -> Response:
    """A page of names; `behind`: the last of them if more follow, else nothing."""
    extra = [(b"link", link_next(path, {"n": str(n), "last": name})) for name in behind if n]
    return responses.whole(json.dumps(document, separators=(",", ":")).encode(), extra=extra)
