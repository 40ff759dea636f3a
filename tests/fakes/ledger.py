"""A registry in memory with a ledger, made of the pure packages only; it answers as configured, also wrongly.

`entries` are the lines, which a test may change; the first `shown` of them are signed, whatever they are. The rows of
`tags` are what the registry itself answers, and may differ from the ledger.
"""

from __future__ import annotations

import base64
import copy
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from boltseal.client.credentials import CredentialStore
from boltseal.client.history import EVENT, TIMESTAMP
from boltseal.client.transport import Transport, TransportOptions
from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import CHANGES, OF_OBSERVATIONS, RECORDS, Entry, EntryKind, encode, format_time, parse
from boltseal.ledger.merkle import inclusion_path, leaf_hash, prove
from boltseal.ledger.note import SigningKey
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.ledger.tiles import BundleId, TileId, TileInvalid, Tiles, encode_bundle, grow, needed, parse_path
from boltseal.oci.mediatype import OCI_INDEX

ORIGIN = "reg.example"
START_US = 1_795_500_000_000_000
A, B, C = ("sha256:" + letter * 64 for letter in "abc")
OCI = "application/vnd.oci.image.manifest.v1+json"
_MOVES = (
    EntryKind.TAG_CREATED,
    EntryKind.TAG_MOVED,
    EntryKind.TAG_RESTORED,
    EntryKind.TAG_SEALED,
    EntryKind.TAG_UNSEALED,
)


def signing_key(letter: str = "k", origin: str = ORIGIN) -> SigningKey:
    return SigningKey(origin, letter.encode() * 32)


@dataclass
class FakeLedger:
    """`status`: the status of every request under /ledger/, if it is not 200; `statuses`: by path."""

    key: SigningKey = field(default_factory=signing_key)
    entries: list[bytes] = field(default_factory=list)
    receipts: list[bytes] = field(default_factory=list)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    shown: int | None = None
    status: int = 200
    own_history: bool = True
    history_status: int = 200
    statuses: dict[str, list[int]] = field(default_factory=dict)
    unsigned: bool = True
    circle: bool = False
    swapped: int | None = None
    shown_later: bytes | None = None
    entries_status: int = 200
    bundle: bytes | None = None
    receipts_by: SigningKey | None = None
    checkpoint: bytes | None = None
    tags_status: int = 200
    tag_indices: list[int] | None = None
    tag_lines: list[bytes] | None = None
    tag_proof_size: int | None = None
    tombstones: dict[tuple[str, str], str] = field(default_factory=dict)
    observations: FakeLedger | None = None
    statement: bytes = b""

    def __post_init__(self) -> None:
        if not self.entries:
            self.add(EntryKind.LOG_STARTED, tag="", repository="")

    def copy(self) -> FakeLedger:
        """Return another registry with the same ledger so far."""
        return copy.deepcopy(self)

    def add(self, kind: EntryKind = EntryKind.TAG_CREATED, digest: str = "", **values: Any) -> int:
        """Append an entry of shop/app:1.4.2, sealed, unless arguments differ; `previous` and `was` are computed."""
        index = len(self.entries)
        name = {"repository": "shop/app", "tag": "1.4.2", **values}
        last = self.last(name["repository"], name["tag"]) if name["tag"] else None
        was = "" if last is None or last[1].kind in (EntryKind.TAG_DELETED, EntryKind.TAG_PURGED) else last[1].digest
        made = {
            "kind": kind,
            "time_us": START_US + index * 1_000_000,
            "registry": self.key.name,
            "digest": digest,
            "type": OCI if digest else "",
            "was": "" if kind in RECORDS else was,
            "previous": -1 if last is None else last[0],
            "actor": "ci",
            "salt": f"{index:032x}",
            "extra": {"mode": "sealed", "keep": "forever"} if kind in _MOVES else {},
            **name,
        }
        self.entries.append(encode(Entry(**made)))
        if name["tag"] and kind not in RECORDS:
            self.tags[name["repository"], name["tag"]] = digest if kind in _MOVES else ""
        return index

    def push(self, *tags: str, digest: str = A, mode: str = "sealed") -> None:
        """Create or move each tag."""
        for tag in tags:
            extra = {"mode": mode, **({"keep": "forever"} if mode == "sealed" else {})}
            kind = EntryKind.TAG_MOVED if self.tags.get(("shop/app", tag)) else EntryKind.TAG_CREATED
            self.add(kind, digest, tag=tag, extra=extra)

    def last(self, repository: str, tag: str) -> tuple[int, Entry] | None:
        found = [(index, parse(line)) for index, line in enumerate(self.entries)]
        changes = [one for one in found if one[1].kind not in RECORDS]
        return next((one for one in reversed(changes) if (one[1].repository, one[1].tag) == (repository, tag)), None)

    def rotate(self, letter: str) -> None:
        """Append the last entry under the current key, which names the next key."""
        new = signing_key(letter, self.key.name)
        index = self.add(EntryKind.KEY_ROTATED, tag="", repository="", extra={"key": str(new.verifier)})
        self.receipts.append(self.receipt(index))
        self.key = new

    def note(self) -> bytes:
        if self.checkpoint is not None:
            return self.checkpoint
        grown = grow(0, {}, [leaf_hash(line) for line in self.entries[: self.shown]])
        return sign_checkpoint(Checkpoint(self.key.name, grown.size, grown.root), self.key)

    def receipt(self, index: int) -> bytes:
        size = len(self.entries[: self.shown])
        path = inclusion_path(index, size)
        tiles = Tiles(size, {tile: self.tile(tile) for tile in needed(path, size)})
        return format_receipt(Receipt(index, prove(path, tiles.node), self.note(), self.entries[index]))

    def tile(self, at: TileId | BundleId) -> bytes:
        lines = self.entries[: self.shown]
        start = at.index * 256
        if isinstance(at, BundleId):
            return encode_bundle(lines[start : start + at.width])
        written = grow(0, {}, [leaf_hash(line) for line in lines]).tiles
        whole = next((data for tile, data in written.items() if (tile.level, tile.index) == (at.level, at.index)), b"")
        if len(whole) < at.width * 32:
            raise TileInvalid("no such tile")
        return whole[: at.width * 32]

    def tile_of_entries(self, width: int) -> bytes:
        """The last entries, as many as a bundle of this width has."""
        return encode_bundle(self.entries[-width:])

    def transport(self) -> Transport:
        """Return connections that all lead to this registry."""
        return Transport(CredentialStore(()), TransportOptions(), app=httpx2.ASGITransport(app=self.app()))

    def app(self) -> Starlette:
        methods = ["GET", "HEAD"]
        return Starlette(
            routes=[
                Route("/v2/", lambda _: Response(headers={"docker-distribution-api-version": "registry/2.0"})),
                *self._observed_routes(),
                Route("/ledger/tags", self._entries_of_tags, methods=["POST"]),
                Route("/ledger/{path:path}", self._ledger),
                Route("/v2/{name:path}/manifests/{reference}", self._manifest, methods=methods),
                Route("/v2/_catalog", self._catalog),
                Route("/v2/{name:path}/tags/list", self._tags),
                Route("/v2/{name:path}/_boltseal/history", self._history),
                Route("/v2/{name:path}/_boltseal/history/{tag}", self._history),
                Route("/v2/{name:path}/_oci/tag-history/{tag}", self._tag_history),
            ]
        )

    def _observed_routes(self) -> list[Route]:
        """Return the routes of the log of observations, which is a ledger of its own."""
        log = self.observations
        if log is None:
            return []
        return [
            Route("/ledger/observations/tags", log._entries_of_tags, methods=["POST"]),
            Route("/ledger/observations/{path:path}", log._ledger),
            Route("/v2/{name:path}/_boltseal/observations/{tag}", log._history),
        ]

    async def _ledger(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.counted[path.partition("/")[0]] += 1
        status = (self.statuses.get(path) or [self.status]).pop(0)
        if status != 200:
            return Response(status_code=status)
        if path.startswith("tile/entries/"):
            self.counted["entries"] += 1
            if self.entries_status != 200:
                return Response(status_code=self.entries_status)
            if self.bundle is not None:
                return Response(self.bundle)
        if path == "checkpoint":
            late, self.shown_later = self.shown_later, None
            return Response(late or self.note())
        if path == "rotations":
            return JSONResponse({"receipts": [base64.b64encode(one).decode() for one in self.receipts]})
        if path.startswith("attestation/"):
            return Response(self.statement)
        if path.startswith("receipt/"):
            asked = int(path.removeprefix("receipt/"))
            signed = replace(self, key=self.receipts_by or self.key)
            return Response(signed.receipt(asked if self.swapped is None else self.swapped))
        try:
            return Response(self.tile(parse_path(path)))
        except TileInvalid:
            return Response(status_code=404)

    async def _entries_of_tags(self, request: Request) -> Response:
        """`tag_indices`, `tag_lines`, `tag_proof_size`: what is shown of every tag instead of the right entries."""
        self.counted["tags"] += 1
        if self.tags_status != 200:
            return Response(status_code=self.tags_status)
        asked = json.loads(await request.body())
        answers = [{"tag": tag, "allowed": True, "entries": self._shown(tag, asked["size"])} for tag in asked["tags"]]
        return JSONResponse({"size": asked["size"], "tags": answers})

    def _shown(self, name: str, size: int) -> list[dict[str, Any]]:
        repository, _, tag = name.rpartition(":")
        about = [
            index
            for index, line in enumerate(self.entries[:size])
            if (entry := parse(line)).kind in CHANGES | OF_OBSERVATIONS
            and (entry.repository, entry.tag) == (repository, tag)
        ]
        sealing = [index for index in about if b'"mode":"sealed"' in self.entries[index]]
        indices = sorted({*sealing[:1], *about[-1:]}) if self.tag_indices is None else self.tag_indices
        lines = [self.entries[index] for index in indices] if self.tag_lines is None else self.tag_lines
        within = self.tag_proof_size or size
        written = grow(0, {}, [leaf_hash(line) for line in self.entries[:within]]).tiles
        tiles = Tiles(within, written)
        proofs = [prove(inclusion_path(index, within), tiles.node) for index in indices]
        return [
            {"index": index, "line": line.decode(), "proof": [base64.b64encode(node).decode() for node in proof]}
            for index, line, proof in zip(indices, lines, proofs, strict=True)
        ]

    async def _manifest(self, request: Request) -> Response:
        self.counted["manifest"] += 1
        name = (request.path_params["name"], request.path_params["reference"])
        digest = self.tags.get(name)
        if not digest:
            bound = self.tombstones.get(name)
            return Response(status_code=404, headers={"boltseal-bound": bound} if bound else {})
        return Response(headers={"docker-content-digest": digest, "content-type": OCI})

    async def _catalog(self, _: Request) -> Response:
        return JSONResponse({"repositories": sorted({repository for repository, _ in self.tags})})

    async def _tags(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(
            {"name": name, "tags": sorted(tag for at, tag in self.tags if at == name and self.tags[at, tag])}
        )

    async def _tag_history(self, request: Request) -> Response:
        name, before = request.path_params["name"], request.query_params.get("before", "9")
        start = f'"repository":"{name}","tag":"{request.path_params["tag"]}"'
        found = [parse(line) for line in self.entries if start in line.decode()]
        times = {format_time(entry.time_us): entry for entry in found[::-1]}
        shown = [(time, entry) for time, entry in times.items() if time < before]
        manifests = [
            {
                "mediaType": OCI,
                "digest": entry.digest,
                "size": 1,
                "annotations": {TIMESTAMP: time, EVENT: "created" if entry.kind in _MOVES else "deleted"},
            }
            for time, entry in shown[:2]
        ]
        link = {"link": '<x>; rel="next"'} if shown[2:] else {}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return JSONResponse(index, headers=link) if self.unsigned else Response(status_code=404)

    async def _history(self, request: Request) -> Response:
        if not self.own_history:
            return Response(status_code=404)
        if self.history_status != 200:
            return Response(status_code=self.history_status)
        after = -1 if self.circle else int(request.query_params.get("after", -1))
        n = int(request.query_params["n"])
        name = request.path_params["name"]
        tag = request.path_params.get("tag")
        self.counted["history" if tag is None else "history of a tag"] += 1
        about = f'"repository":"{name}"' + ("" if tag is None else f',"tag":"{tag}"')
        of_name = [
            {"index": index, "line": line.decode()}
            for index, line in enumerate(self.entries)
            if index > after and about in line.decode()
        ]
        page = of_name[:n]
        more = f'</v2/{name}/_boltseal/history?n={n}&after={page[-1]["index"]}>; rel="next"' if page else ""
        link = {"link": more} if len(of_name) > n or self.circle else {}
        return JSONResponse({"size": len(self.entries), "entries": page}, headers=link)
