"""A witness of a ledger, as its client (C2SP tlog-witness): submit a head, get a cosignature, or hear what it saw last.

    POST <url>/add-checkpoint                    200: cosignature lines · 409: the size that it saw last
    GET  <url>/<hex SHA-256 of the origin>/checkpoint    the head that it cosigned last

A witness is a stranger: answers are bounded, in bytes as they come over the wire and in the time that all of one takes;
redirects are not followed, nothing of ours but the head leaves. What it says is checked by whoever asks; here it is only
parsed.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx2

from boltseal.client.errors import RemoteMismatch, RemoteUnavailable
from boltseal.errors import quote
from boltseal.ledger.note import MAX_NOTE_BYTES

ANSWERS_WITHIN_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024
SIZE_TYPE: Final = "text/x.tlog.size"
_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Cosigned:
    """It saw that the head extends what it saw before. `lines`: signature lines, unverified."""

    lines: bytes


@dataclass(frozen=True, slots=True)
class SawOther:
    """It saw a head of another size last, or, where the sizes are equal, another root."""

    size: int


@dataclass(frozen=True, slots=True)
class ProofRefused:
    """What it saw last, of the size that we said, is not the beginning of what we submitted."""


class WitnessClient:
    """One witness, each answer of which has to be whole within `answers_within_s`. Close it with `aclose`."""

    def __init__(
        self, url: str, *, app: httpx2.AsyncBaseTransport | None = None, answers_within_s: float = ANSWERS_WITHIN_S
    ) -> None:
        self._url = url.rstrip("/")
        self._within_s = answers_within_s
        self._http = httpx2.AsyncClient(
            timeout=answers_within_s, follow_redirects=False, transport=app, headers={"accept-encoding": "identity"}
        )

    async def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: bytes
    ) -> Cosigned | SawOther | ProofRefused:
        """Submit a head. RemoteUnavailable, RemoteMismatch."""
        lines = [f"old {old_size}", *(b64encode(one).decode() for one in proof), ""]
        status, kind, body = await self._ask(
            "POST", "/add-checkpoint", MAX_ANSWER_BYTES, "".join(f"{line}\n" for line in lines).encode() + note
        )
        if status == 200:
            return Cosigned(body)
        if status == 409 and kind == SIZE_TYPE:
            text = body.decode("ascii", errors="replace").removesuffix("\n")
            if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
                raise RemoteMismatch(
                    f"the witness {self._url} says that it saw {quote(text)}; expected a number of entries"
                )
            return SawOther(int(text))
        if status == 422:
            return ProofRefused()
        reason = {403: ": it does not know this ledger's key", 404: ": it does not know this ledger"}.get(status, "")
        raise RemoteUnavailable(f"the witness {self._url} answered {status}{reason}")

    async def latest(self, origin: str) -> bytes:
        """The head of a ledger that it cosigned last, unverified. RemoteUnavailable."""
        path = f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
        status, _, body = await self._ask("GET", path, MAX_NOTE_BYTES)
        if status != 200:
            raise RemoteUnavailable(f"the witness {self._url} answered {status} to what it saw last")
        return body

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def _ask(self, method: str, path: str, limit: int, content: bytes | None = None) -> tuple[int, str, bytes]:
        try:
            async with (
                asyncio.timeout(self._within_s),  # httpx2 waits so long for each piece, however many there are
                self._http.stream(method, self._url + path, content=content) as response,
            ):
                body = b""
                async for piece in response.aiter_raw():  # as it comes: a short one could be decoded into gigabytes
                    body += piece
                    if len(body) > limit:
                        raise RemoteMismatch(f"the witness {self._url} answered with more than {limit} bytes")
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise RemoteUnavailable(f"the witness {self._url} does not answer: {type(error).__name__}") from error
        return response.status_code, response.headers.get("content-type", "").partition(";")[0].strip().lower(), body
