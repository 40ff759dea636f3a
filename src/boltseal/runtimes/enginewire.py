"""How much of an engine's answer is read, for how long, and from whom: what aiodocker leaves open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp

from boltseal.runtimes.inventory import EngineLies

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 1024 * 1024
SILENT_S: Final = 600.0
"""So long a stream may bring nothing."""


class TooMuch(EngineLies):
    """An answer without an end."""


def too_much() -> TooMuch:
    """In words."""
    return TooMuch(f"the engine answers with more than {MAX_ANSWER_BYTES // 1024**2} MiB")


class _Elsewhere(EngineLies):
    """An answer that sends us to somebody else."""


class Bounded(aiohttp.ClientResponse):
    """An answer of which at most MAX_ANSWER_BYTES are ever read at once, also by aiodocker when it reads an error."""

    async def read(self) -> bytes:
        """The whole of it. TooMuch."""
        if self._body is None:
            whole = bytearray()
            async for piece in self.content.iter_chunked(PIECE_BYTES):
                whole += piece
                if len(whole) > MAX_ANSWER_BYTES:
                    self.close()
                    raise too_much()
            self._body = bytes(whole)
        return self._body


def nowhere_else() -> aiohttp.TraceConfig:
    """Ends a session where an engine redirects."""

    async def refuse(*_: Any) -> None:
        raise _Elsewhere("the engine answers that somebody else should be asked; nobody is")

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(refuse)
    return config


async def pieces(content: aiohttp.StreamReader, size: int) -> AsyncIterator[bytes]:
    """What comes, up to `size` at a time. TimeoutError."""
    while True:
        async with asyncio.timeout(SILENT_S):
            piece = await content.read(size)
        if not piece:
            return
        yield piece


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Documents, each on a line of its own. TooMuch, TimeoutError."""
    rest = b""
    async for piece in pieces(content, MAX_LINE_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        for line in (each for each in whole if each.strip()):
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise TooMuch(f"the engine writes a line of more than {MAX_LINE_BYTES // 1024} KiB")
    if rest.strip():
        yield rest
