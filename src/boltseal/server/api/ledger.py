"""The ledger over HTTP under /ledger/ (C2SP tlog-tiles), for standard tools, and receipts.

    /ledger/checkpoint                    the newest checkpoint
    /ledger/tile/<L>/<N>[.p/<W>]          hashes
    /ledger/tile/entries/<N>[.p/<W>]      entries; needs the right `ledger`
    /ledger/receipt/<index>               one entry with its proof; needs the right to pull from its repository
    /ledger/attestation/<index>           the same as a statement that the attestation key signs (`ledger.receipt_attestation`)
    /ledger/rotations                     the key rotations, as receipts
    /ledger/tags                          POST: the entries that prove what tags resolve to (`server.api.tag_entries`)

The log of observations of upstreams' tags is the same under /ledger/observations/, without statements.

Checkpoint and hashes reveal only the number of entries; rotations also who changed the key and why. They need any
login, or none with `[ledger] public`. Entries contain repositories, people and reasons. Full tiles never change.

With `[ledger] public`, pages of other origins may read (CORS) what every client may read: checkpoint, hashes and rotations, and receipts
of repositories that `anonymous_pull` names. So a page on a person's disk (`verify.html`) can check a proof. The browser sends no
login with such requests, and no other route allows them. A registry without users and `anonymous_pull` shows receipts to every
client that can connect to it, but not to pages of other origins in that client's browser.
"""

from __future__ import annotations

import base64
import json
from typing import Final

from boltseal.errors import BoltsealError, Unauthenticated, quote
from boltseal.ledger.tiles import WIDTH, BundleId, TileInvalid, parse_path
from boltseal.oci.reference import Repository
from boltseal.server.api import caching, responses
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.errors import MethodNotAllowed, RouteUnknown
from boltseal.server.api.http_application import READS, HttpApplication
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.api.tag_entries import tag_entries
from boltseal.server.registry.attestations import Attestations
from boltseal.server.registry.ledger import Ledger
from boltseal.signatures.sigstore_bundle import BUNDLE

PREFIX: Final = "/ledger/"
OBSERVATIONS_PREFIX: Final = "/ledger/observations/"
_IMMUTABLE: Final = "max-age=31536000, immutable"
_MAX_DIGITS: Final = 18
_ANY_ORIGIN: Final[Headers] = ((b"access-control-allow-origin", b"*"),)


class LedgerApi(HttpApplication):
    """Serves one log under `prefix`. `public`: checkpoint, hashes and rotations need no login.

    `attestations`: makes statements; None: this log has none.
    """

    def __init__(
        self,
        observer: RequestLog,
        ledger: Ledger,
        auth: RequestAuth,
        *,
        public: bool,
        prefix: str = PREFIX,
        attestations: Attestations | None = None,
    ) -> None:
        super().__init__(observer)
        self._prefix = prefix
        self._ledger = ledger
        self._auth = auth
        self._public = public
        self._attestations = attestations

    def _cors_headers(self, *, public: bool = True) -> Headers:
        """Return the headers with which pages of other origins may read a response that every client may read."""
        return _ANY_ORIGIN if self._public and public else ()

    def _error_headers(self, _: Request, error: BoltsealError) -> Headers:
        # Basic, because tokens contain only rights on repositories.
        basic = (b"www-authenticate", b'Basic realm="boltseal", charset="UTF-8"')
        return (basic,) if isinstance(error, Unauthenticated) else ()

    async def _respond(self, request: Request) -> Response:
        path: str = request.scope["path"].removeprefix(self._prefix)
        if b"%" in request.scope["raw_path"]:
            raise RouteUnknown("escapes are not allowed in paths of the ledger")
        if path == "tags":
            request.route = f"{self._prefix}tags"
            if request.method != "POST":
                raise MethodNotAllowed("method not allowed; use POST", "POST")
            return await tag_entries(request, self._ledger, self._auth)
        if request.method not in READS:
            raise MethodNotAllowed("method not allowed; use GET", "GET, HEAD")
        if path == "checkpoint":
            request.route = f"{self._prefix}checkpoint"
            await self._admit(request)
            return responses.with_body(await self._ledger.checkpoint(), responses.TEXT, extra=self._cors_headers())
        if path == "rotations":
            request.route = f"{self._prefix}rotations"
            await self._admit(request)
            receipts = [base64.b64encode(receipt).decode() for receipt in await self._ledger.rotations()]
            return responses.with_body(json.dumps({"receipts": receipts}).encode(), extra=self._cors_headers())
        kind, _, rest = path.partition("/")
        if rest.isascii() and rest.isdigit() and len(rest) <= _MAX_DIGITS:
            if kind == "receipt":
                request.route = f"{self._prefix}receipt/{{index}}"
                return await self._receipt(request, int(rest))
            if kind == "attestation" and self._attestations is not None:
                request.route = f"{self._prefix}attestation/{{index}}"
                return await self._statement(request, int(rest), self._attestations)
        return await self._tile(request, path)

    async def _admit(self, request: Request) -> None:
        if not self._public:
            await self._auth.admit_any(request)

    async def _tile(self, request: Request, path: str) -> Response:
        try:
            tile_id = parse_path(path)
        except TileInvalid as error:
            raise RouteUnknown(f"{quote(path)} is not a path of the ledger: {error.message}") from error
        if isinstance(tile_id, BundleId):
            request.route = f"{self._prefix}tile/entries/{{index}}"
            await self._auth.admit_to_entries(request)
        else:
            request.route = f"{self._prefix}tile/{{level}}/{{index}}"
            await self._admit(request)
        public = self._public and not isinstance(tile_id, BundleId)
        cache_control = f"{'public' if public else 'private'}, {_IMMUTABLE}"
        return responses.with_body(
            await self._ledger.tile(tile_id),
            "application/octet-stream",
            cache_control=cache_control if tile_id.width == WIDTH else caching.NO_STORE,
            extra=self._cors_headers(public=public),
        )

    async def _receipt(self, request: Request, index: int) -> Response:
        repository = await self._admit_to(request, index)
        open_to_all = any(glob.matches(repository) for glob in self._auth.access.grants.anonymous_pull)
        extra = self._cors_headers(public=bool(repository) and open_to_all)
        return responses.with_body(await self._ledger.receipt(index), responses.TEXT, extra=extra)

    async def _statement(self, request: Request, index: int, attestations: Attestations) -> Response:
        await self._admit_to(request, index)
        return responses.with_body(await attestations.statement(index), BUNDLE)

    async def _admit_to(self, request: Request, index: int) -> str:
        """Check the right to read an entry, and return its repository, "" if it is about none."""
        await self._auth.admit_any(request)
        entry = await self._ledger.entry(index)
        if entry.repository:
            await self._auth.admit_to_entry(request, index, Repository(entry.repository))
        else:
            await self._auth.admit_to_entries(request)
        return entry.repository
