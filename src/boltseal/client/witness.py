"""Client of a ledger's witness (C2SP tlog-witness): submit a checkpoint, get a cosignature or the size it saw last.

    POST <url>/add-checkpoint                    200: cosignature lines · 409: the size that it saw last
    GET  <monitoring>/<hex SHA-256 of the origin>/checkpoint    the checkpoint that it cosigned last

A witness is not trusted: answers are bounded in bytes on the wire and in total time, redirects are not followed, and
only the checkpoint is sent. Answers are only parsed here; the caller verifies them.
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
    """The witness confirms that the checkpoint extends the last one it saw. `lines`: signature lines, unverified."""

    lines: bytes


@dataclass(frozen=True, slots=True)
class SizeConflict:
    """The witness saw a checkpoint of another size last or, if `size` equals the submitted one, with another root."""

    size: int


@dataclass(frozen=True, slots=True)
class ProofRefused:
    """The consistency proof does not connect the checkpoint that the witness saw last with the submitted one."""


class LedgerUnknown(RemoteUnavailable):
    """The witness does not know this ledger, so it can't have seen more of it."""


class WitnessClient:
    """Client of one witness. `answers_within_s`: longest time for a whole answer. `monitoring`: the prefix of its
    checkpoints, if it is another than `url`. Close it with `aclose`.
    """

    def __init__(
        self,
        url: str,
        *,
        monitoring: str | None = None,
        app: httpx2.AsyncBaseTransport | None = None,
        answers_within_s: float = ANSWERS_WITHIN_S,
    ) -> None:
        self._url = url.rstrip("/")
        self._monitoring = (monitoring or url).rstrip("/")
        self._within_s = answers_within_s
        self._http = httpx2.AsyncClient(
            timeout=answers_within_s, follow_redirects=False, transport=app, headers={"accept-encoding": "identity"}
        )

    async def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: bytes
    ) -> Cosigned | SizeConflict | ProofRefused:
        """Submit a checkpoint. Raises: RemoteUnavailable, RemoteMismatch."""
        lines = [f"old {old_size}", *(b64encode(node).decode() for node in proof), ""]
        status, kind, body = await self._ask(
            "POST",
            f"{self._url}/add-checkpoint",
            MAX_ANSWER_BYTES,
            "".join(f"{line}\n" for line in lines).encode() + note,
        )
        if status == 200:
            return Cosigned(body)
        if status == 409 and kind == SIZE_TYPE:
            text = body.decode("ascii", errors="replace").removesuffix("\n")
            if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
                raise RemoteMismatch(
                    f"the witness {self._url} answered size {quote(text)}; expected a number of entries"
                )
            return SizeConflict(int(text))
        if status == 422:
            return ProofRefused()
        if status == 404:
            raise LedgerUnknown(f"the witness {self._url} answered 404: it does not know this ledger")
        reason = {403: ": it does not know this ledger's key"}.get(status, "")
        raise RemoteUnavailable(f"the witness {self._url} answered {status}{reason}")

    async def latest(self, origin: str) -> bytes:
        """Return the checkpoint of a ledger that the witness cosigned last, unverified. Raises: RemoteUnavailable."""
        address = f"{self._monitoring}/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
        status, _, body = await self._ask("GET", address, MAX_NOTE_BYTES)
        if status != 200:
            raise RemoteUnavailable(f"the witness {self._url} answered {status} for its last checkpoint")
        return body

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, method: str, address: str, limit: int, content: bytes | None = None) -> tuple[int, str, bytes]:
        try:
            async with (
                asyncio.timeout(self._within_s),  # httpx2's timeout is per piece, not for the whole
                self._http.stream(method, address, content=content) as response,
            ):
                body = b""
                async for piece in response.aiter_raw():  # undecoded: a short body could decompress to gigabytes
                    body += piece
                    if len(body) > limit:
                        raise RemoteMismatch(f"the witness {self._url} answered with more than {limit} bytes")
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise RemoteUnavailable(f"the witness {self._url} does not answer: {type(error).__name__}") from error
        return response.status_code, response.headers.get("content-type", "").partition(";")[0].strip().lower(), body
