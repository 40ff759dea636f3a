"""Limits on size and time of an engine's answers, which httpx2 leaves to its caller."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import BinaryIO, Final

import httpx2
import msgspec

from boltseal.engines.inventory import EngineMismatch

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 1024 * 1024
SILENT_S: Final = 600.0
"""Longest time in which a stream may bring no data."""


class _Complaint(msgspec.Struct):
    message: str


async def chunks(
    response: httpx2.Response, *, most: int | None = None, size: int | None = None, silent_s: float = SILENT_S
) -> AsyncIterator[bytes]:
    """Yield the body of an answer as it arrives. `most`: limit in bytes; `size`: of each chunk; `silent_s`: longest time
    without data.

    Raises: EngineMismatch, TimeoutError.
    """
    raw, read = response.aiter_raw(size), 0
    while True:
        async with asyncio.timeout(silent_s):
            piece = await anext(raw, None)
        if piece is None:
            return
        read += len(piece)
        if most is not None and read > most:
            raise EngineMismatch(f"the engine's answer is longer than {most // 1024**2} MiB")
        yield piece


async def read_all(response: httpx2.Response) -> bytes:
    """Return the body of an answer. Raises: EngineMismatch, TimeoutError."""
    body = bytearray()
    async for piece in chunks(response, most=MAX_ANSWER_BYTES):
        body += piece
    return bytes(body)


async def lines(response: httpx2.Response, *, silent_s: float = SILENT_S) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, without empty ones. Raises: EngineMismatch, TimeoutError."""
    rest = b""
    async for piece in chunks(response, silent_s=silent_s):
        *full, rest = (rest + piece).split(b"\n")
        for line in (each for each in full if each.strip()):
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise EngineMismatch(f"the engine sent a line longer than {MAX_LINE_BYTES // 1024} KiB")
    if rest.strip():
        yield rest


async def error_message(response: httpx2.Response) -> str | None:
    """Return the error message of an answer; None if it is not in Docker's format. Raises: EngineMismatch, TimeoutError."""
    raw = await read_all(response)
    try:
        if response.headers.get("content-type", "").startswith("application/json"):
            return msgspec.json.decode(raw, type=_Complaint).message
        text = raw.decode()
        if text.startswith("{"):  # Podman sends the JSON of some errors as text/plain
            with suppress(msgspec.MsgspecError, RecursionError):
                return msgspec.json.decode(raw, type=_Complaint).message
        return text
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


async def file_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """Yield the content of a file, to be sent."""
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


def connection_errno(error: Exception) -> int | None:
    """Return the errno of a failed connection, or None."""
    made = error.__cause__ if isinstance(error, httpx2.ConnectError) else None
    under = None if made is None else made.__context__  # httpcore2 clears the cause of its own error
    return under.errno if isinstance(under, OSError) and not isinstance(under, ssl.SSLError) else None
