"""An in-memory witness of ledgers after C2SP tlog-witness: it verifies, and can be configured to fail or to answer
wrongly."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from dataclasses import dataclass, field

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.ledger.merkle import ProofInvalid, verify_consistency
from boltseal.ledger.note import COSIGNATURE, NoteInvalid, SigningKey, VerifierKey, format_note, parse_note_unverified

URL = "https://witness.test"


@dataclass
class FakeWitness:
    """`trusted`: the log's key. `seen`: the last cosigned note. `answers`: sent instead of its own, in order.

    `shows`: whether it serves that note. `monitored_at`: the path below which it serves it.
    """

    trusted: VerifierKey
    name: str = "witness.test/w1"
    seed: bytes = bytes(range(32))
    seen: bytes | None = None
    answers: list[Response] = field(default_factory=list)
    asked: int = 0
    now_s: int = 1_795_500_000
    shows: bool = True
    monitored_at: str = ""

    @property
    def key(self) -> SigningKey:
        return SigningKey(self.name, self.seed, COSIGNATURE)

    def saw(self) -> int:
        """The size of the checkpoint that it cosigned last."""
        return 0 if self.seen is None else open_checkpoint(self.seen, self.trusted).checkpoint.size

    def transport(self) -> httpx2.ASGITransport:
        routes = [
            Route("/add-checkpoint", self.add, methods=["POST"]),
            Route(f"{self.monitored_at}/{{origin}}/checkpoint", self.latest),
        ]
        return httpx2.ASGITransport(app=Starlette(routes=routes))

    async def add(self, request: Request) -> Response:
        self.asked += 1
        if self.answers:
            return self.answers.pop(0)
        head, _, note = (await request.body()).partition(b"\n\n")
        old, *proof = head.decode().split("\n")
        try:
            new = open_checkpoint(note, self.trusted).checkpoint
        except NoteInvalid:
            return Response(status_code=403)
        last = None if self.seen is None else open_checkpoint(self.seen, self.trusted).checkpoint
        size = 0 if last is None else last.size
        if int(old.removeprefix("old ")) != size:
            return Response(f"{size}\n", 409, media_type="text/x.tlog.size")
        if last is not None:
            if last.size == new.size and last.root != new.root:
                return Response(f"{size}\n", 409, media_type="text/x.tlog.size")
            try:
                verify_consistency(last.size, last.root, new.size, new.root, [b64decode(one) for one in proof])
            except ProofInvalid:
                return Response(status_code=422)
        parsed = parse_note_unverified(note)
        cosignature = self.key.sign(parsed.text, self.now_s)
        self.seen = format_note(parsed.text, [*parsed.signatures, cosignature])
        return PlainTextResponse(cosignature.line())

    async def latest(self, request: Request) -> Response:
        mine = hashlib.sha256(self.trusted.name.encode()).hexdigest() == request.path_params["origin"]
        found = self.seen if self.shows and mine else None
        return Response(status_code=404) if found is None else Response(found)
