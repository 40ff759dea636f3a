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
    """`answers`: what is sent back, one after the other, the last for ever; b"" holds the connection open and says nothing."""

    port: int = 0
    answers: list[bytes] = field(default_factory=lambda: [b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"])
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    sent: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was delivered, parsed."""
        return [json.loads(body) for body in self.bodies]

    def header(self, number: int, name: str) -> str:
        """A header of a request."""
        lines = self.heads[number].decode().split("\r\n")
        return next(line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}: "))

    async def until(self, number: int, within_s: float = 90.0) -> None:
        """Wait until so many were delivered."""
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
    """An answer without a body."""
    return f"HTTP/1.1 {status}\r\n{more}content-length: 0\r\n\r\n".encode()


@asynccontextmanager
async def inbox(*answers: bytes) -> AsyncIterator[Inbox]:
    """A receiver that listens."""
    box = Inbox()
    if answers:
        box.answers = list(answers)
    async with listening(box._serve) as box.port:
        yield box


@contextmanager
def inbox_in_thread(*answers: bytes) -> Iterator[Inbox]:
    """A receiver in a thread of its own, for tests that run a verb to its end."""
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
