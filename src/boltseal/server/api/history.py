"""The history of tags over HTTP: distribution-spec PR #606 and its discovery, and the entries of the ledger.

The tag-history extension is experimental: its text may still change. A deleted tag keeps its history; a tag that never
existed has an empty one. The time of an event is unique in the registry, so that a page can begin strictly after it.
Annotations of pushed manifests are not repeated.

    GET /v2/<name>/_boltseal/history[/<tag>]?after=<index>&n=<number>&kinds=<kind>,<kind>
    GET /v2/<name>/_boltseal/observations[/<tag>]?after=<index>&n=<number>
    {"size":..., "entries":[{"index":..., "line":...}]}

The last two return entries of the ledger and of the log of observations, whose hashes are the leaves of the trees. They
need the right to pull from the repository. `kinds`: entries of these kinds only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from boltseal.errors import quote
from boltseal.ledger.entry import MAX_TIME_US, EntryKind, format_time
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.server.api import responses
from boltseal.server.api.paths import DiscoverTarget, HistoryTarget, ObservationsTarget, TagHistoryTarget
from boltseal.server.api.query import QueryInvalid, link_next
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.ledger import EntryPage, EventPage, Ledger, TagEvent

MAX_PAGE: Final = 1000
BEFORE_INDEX: Final = "before-index"
"""The parameter of a Link that finds the next page of a tag's history without reading the pages before it."""

TIMESTAMP: Final = "org.opencontainers.distribution.tag.timestamp"
EVENT: Final = "org.opencontainers.distribution.tag.event"

_SPEC_URL: Final = "https://github.com/opencontainers/distribution-spec/pull/606"
_OWN_URL: Final = "https://c2sp.org/tlog-tiles"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_is_timestamp = re.compile(
    r"(?P<whole>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,18}))?(?P<zone>[Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch


class HistoryRoutes:
    """The handlers of `DiscoverTarget`, `TagHistoryTarget`, `HistoryTarget` and `ObservationsTarget`."""

    def __init__(self, ledger: Ledger, observed: Ledger) -> None:
        self._ledger = ledger
        self._observed = observed

    async def discover(self, _: Request, target: DiscoverTarget) -> Response:
        """List the extensions of this registry or of one repository."""
        name = "<name>" if target.repository is None else str(target.repository)
        oci = {
            "name": "_oci",
            "url": _SPEC_URL,
            "description": "extensions of the distribution spec; tag-history is experimental (PR #606)",
            "endpoints": [
                "/v2/_oci/ext/discover",
                f"/v2/{name}/_oci/ext/discover",
                f"/v2/{name}/_oci/tag-history/<tag>",
            ],
        }
        own = {
            "name": "_boltseal",
            "url": _OWN_URL,
            "description": "ledger entries of a repository; the ledger is under /ledger/ (C2SP tlog-tiles)",
            "endpoints": [
                f"/v2/{name}/_boltseal/history",
                f"/v2/{name}/_boltseal/history/<tag>",
                f"/v2/{name}/_boltseal/records",
                f"/v2/{name}/_boltseal/observations",
                f"/v2/{name}/_boltseal/observations/<tag>",
                f"/v2/{name}/_boltseal/chains",
            ],
        }
        return responses.with_body(_json({"extensions": [oci, own]}))

    async def tag_history(self, request: Request, target: TagHistoryTarget) -> Response:
        """Return the events of a tag, newest first; for a mirrored tag without events the observations of it."""
        n = min(request.query.page_size(), MAX_PAGE)
        before, since, digest = (request.query.value(name) for name in ("before", "since", "digest"))
        before_us = MAX_TIME_US + 1 if before is None else parse_timestamp("before", before, round_up=True)
        since_us = -1 if since is None else parse_timestamp("since", since, round_up=False)
        wanted = _digest(digest)
        hint = request.query.value(BEFORE_INDEX)
        before_index = None if hint is None else _index(hint)

        async def events(log: Ledger) -> EventPage:
            return await log.tag_events(
                target.repository,
                target.tag,
                n=n,
                before_us=before_us,
                since_us=since_us,
                digest=wanted,
                before=before_index,
            )

        page = await events(self._ledger)
        if request.upstream is not None and not page.events:
            page = await events(self._observed)
        extra = []
        if page.more:
            kept = {key: value for key, value in (("since", since), ("digest", digest)) if value is not None}
            last = page.events[-1]
            parameters = {"n": str(n), "before": _time_of(last), BEFORE_INDEX: str(last.index), **kept}
            extra.append((b"link", link_next(f"/v2/{target.repository}/_oci/tag-history/{target.tag}", parameters)))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_descriptor(event) for event in page.events]}
        return responses.with_body(_json(index), OCI_INDEX, extra=extra)

    async def history(self, request: Request, target: HistoryTarget) -> Response:
        """Return the ledger entries of a repository or tag, oldest first, optionally of some kinds only."""
        n, after = page_parameters(request)
        kinds = request.query.value("kinds")
        page = await self._ledger.history(target.repository, target.tag, after=after, n=n, kinds=_kinds(kinds))
        path = f"/v2/{target.repository}/_boltseal/history" + (f"/{target.tag}" if target.tag is not None else "")
        return entries_response(page, path, n, {} if kinds is None else {"kinds": kinds})

    async def observations(self, request: Request, target: ObservationsTarget) -> Response:
        """Return the observations of a mirrored repository or one of its tags, oldest first."""
        n, after = page_parameters(request)
        page = await self._observed.history(target.repository, target.tag, after=after, n=n)
        path = f"/v2/{target.repository}/_boltseal/observations" + (f"/{target.tag}" if target.tag is not None else "")
        return entries_response(page, path, n)


def page_parameters(request: Request) -> tuple[int, int]:
    """Return the requested number of entries, and the index after which they begin. Raises: QueryInvalid."""
    after = request.query.value("after")
    return min(request.query.page_size(), MAX_PAGE), -1 if after is None else _index(after)


def entries_response(page: EntryPage, path: str, n: int, kept: Mapping[str, str] | None = None) -> Response:
    """Return entries as JSON with a Link to the next page. `kept`: further parameters of that link."""
    entries = [{"index": index, "line": line.decode()} for index, line in page.entries]
    extra = []
    if page.more and page.entries:
        extra.append((b"link", link_next(path, {**(kept or {}), "n": str(n), "after": str(page.entries[-1][0])})))
    return responses.with_body(_json({"size": page.size, "entries": entries}), extra=extra)


def _descriptor(event: TagEvent) -> dict[str, object]:
    entry = event.entry
    return {
        "mediaType": entry.type,
        "size": entry.size,
        "digest": entry.digest,
        "annotations": {TIMESTAMP: _time_of(event), EVENT: event.event},
    }


def _time_of(event: TagEvent) -> str:
    return format_time(event.entry.time_us)


def parse_timestamp(name: str, text: str, *, round_up: bool) -> int:
    """Return an RFC 3339 time in microseconds. A finer time is rounded such that "strictly before/since" stays true."""
    match = _is_timestamp(text)
    try:
        if match is None:
            raise ValueError
        zone = match["zone"].upper().replace("Z", "+00:00")
        whole = datetime.fromisoformat(match["whole"].upper() + zone)
        seconds = (whole - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError) as error:
        expected = "a time such as 2026-11-24T08:29:01.123456Z"
        raise QueryInvalid(f"{name} is {quote(text)}; expected {expected}") from error
    fraction = (match["fraction"] or "").ljust(6, "0")
    finer = bool(fraction[6:].strip("0"))
    return seconds + int(fraction[:6]) + (1 if finer and round_up else 0)


def _digest(text: str | None) -> Digest | None:
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except DigestInvalid as error:
        raise QueryInvalid(f"digest: {error.message}") from error


def _kinds(text: str | None) -> frozenset[EntryKind] | None:
    """Return the requested kinds of entries, None for all. Raises: QueryInvalid."""
    if text is None:
        return None
    try:
        return frozenset(EntryKind(kind) for kind in text.split(","))
    except ValueError as error:
        raise QueryInvalid(
            f"kinds is {quote(text)}; expected a comma-separated list of entry kinds, such as tag.moved"
        ) from error


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise QueryInvalid(f"after is {quote(text)}; expected the index of an entry")
    return int(text)


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
