"""The ledger for the scripts of pages, whose requests have the cookie of a session and no Authorization header.

    /ui/ledger/checkpoint              the newest checkpoint
    /ui/ledger/tile/<L>/<N>[.p/<W>]    hashes
    /ui/ledger/receipt/<index>         one entry with its proof, as a download

The rights are those of `/ledger/` (`server.api.ledger`). Bundles of entries are not served here. The log of observations has the
same paths below `/ui/ledger/observations/`.
"""

from __future__ import annotations

from typing import Final

from boltseal.errors import quote
from boltseal.ledger.tiles import TileId, TileInvalid, parse_path
from boltseal.oci.reference import Repository
from boltseal.server.api import responses
from boltseal.server.api.errors import RouteUnknown
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.auth.access import Access
from boltseal.server.registry.ledger import Ledger

LEDGER_PREFIX: Final = "/ui/ledger/"
OBSERVATIONS: Final = "observations/"
_MAX_DIGITS: Final = 18


class PageLedger:
    """Reads both logs for the caller that a request already has. `public`: hashes and checkpoint need no login."""

    def __init__(self, ledger: Ledger, observed: Ledger, access: Access, *, public: bool) -> None:
        self._ledger = ledger
        self._observed = observed
        self._access = access
        self._public = public

    async def respond(self, request: Request) -> Response:
        """Return a part of a log. Raises: RouteUnknown, LoginNeeded, Denied, NotInLedger."""
        if b"%" in request.scope["raw_path"]:
            raise RouteUnknown("escapes are not allowed in paths of the ledger")
        path: str = request.scope["path"].removeprefix(LEDGER_PREFIX)
        log = self._observed if path.startswith(OBSERVATIONS) else self._ledger
        path = path.removeprefix(OBSERVATIONS)
        kind, _, rest = path.partition("/")
        if path == "checkpoint":
            request.route = f"{LEDGER_PREFIX}checkpoint"
            self._check_any(request)
            return responses.with_body(await log.checkpoint(), responses.TEXT)
        if kind == "receipt" and rest.isascii() and rest.isdigit() and len(rest) <= _MAX_DIGITS:
            request.route = f"{LEDGER_PREFIX}receipt/{{index}}"
            return await self._receipt(request, log, int(rest))
        request.route = f"{LEDGER_PREFIX}tile/{{level}}/{{index}}"
        try:
            tile = parse_path(path)
        except TileInvalid as error:
            raise RouteUnknown(f"{quote(path)} is not a path of the ledger: {error.message}") from error
        if not isinstance(tile, TileId):
            raise RouteUnknown("pages do not show bundles of entries")
        self._check_any(request)
        return responses.with_body(await log.tile(tile), "application/octet-stream")

    async def _receipt(self, request: Request, log: Ledger, index: int) -> Response:
        required = self._access.required()
        if required:
            self._access.check_any(request.caller)
        entry = await log.entry(index)
        if required and entry.repository:
            self._access.check_entry(request.caller, index, Repository(entry.repository))
        elif required:
            self._access.check_entries(request.caller)
        name = "entry" if log is self._ledger else "observation"
        download = f'attachment; filename="{name}-{index}.tlog-proof"'.encode("ascii")
        extra = ((b"content-disposition", download),)
        return responses.with_body(await log.receipt(index), responses.TEXT, extra=extra)

    def _check_any(self, request: Request) -> None:
        if not self._public:
            self._access.check_any(request.caller)
