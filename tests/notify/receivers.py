"""Receivers of notifications for tests: a server on loopback that stores requests and answers as configured."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.client.listening import listening
from tests.polling import until


@dataclass(slots=True)
class Inbox:
    """`answers`: sent in order, the last one repeatedly; b"" keeps the connection open without an answer."""

    port: int = 0
    answers: list[bytes] = field(default_factory=lambda: [b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"])
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    sent: int = 0

    @property
    def url(self) -> str:
        """Return the receiver's URL."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the delivered events, parsed."""
        return [json.loads(body) for body in self.bodies]

    def header(self, number: int, name: str) -> str:
        """Return a header of a request."""
        lines = self.heads[number].decode().split("\r\n")
        return next(line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}: "))

    async def until(self, number: int, within_s: float = 90.0) -> None:
        """Wait until so many events were delivered."""
        await until(lambda: len(self.bodies) >= number, f"{number} events are delivered", within_s)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        length = int(self.header(len(self.heads) - 1, "content-length"))
        self.bodies.append(await reader.readexactly(length))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            await asyncio.sleep(3600)  # the receiver that does not answer
        writer.write(answer)
        await writer.drain()
        while answer.endswith(b"endless"):  # as long as the client reads
            writer.write(b"x" * 65_536)
            await writer.drain()
            self.sent += 65_536


OK = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"
HANGS = b""
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nendless"


def answer(status: str, more: str = "") -> bytes:
    """Return an answer without a body."""
    return f"HTTP/1.1 {status}\r\n{more}content-length: 0\r\n\r\n".encode()


@asynccontextmanager
async def inbox(*answers: bytes) -> AsyncIterator[Inbox]:
    """Run a receiver."""
    box = Inbox()
    if answers:
        box.answers = list(answers)
    async with listening(box._serve) as box.port:
        yield box


@contextmanager
def inbox_in_thread(*answers: bytes) -> Iterator[Inbox]:
    """Run a receiver in a thread, for tests that run a command to its end."""
    boxes: list[Inbox] = []
    listening, over = threading.Event(), threading.Event()

    async def listen() -> None:
        async with inbox(*answers) as box:
            boxes.append(box)
            listening.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    try:
        listening.wait(20)
        yield boxes[0]
    finally:
        over.set()
        thread.join(20)
