"""What is noted of each request: its number, its line in the access log, its share of the sums.

This stands in the way of every pull, so it only appends and adds; lines are written about five times a second, in a
thread, by whoever was handed in as `write`. A log that can't keep up loses lines, and says how many, rather than hold up
requests. A line never has the query (a stranger's; of a token's, what was parsed of it) nor any
header but the number that we gave.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from boltseal.server.storage.metrics import RequestMetrics, RunFolder

if TYPE_CHECKING:
    from boltseal.server.api.request import Request
    from boltseal.server.api.responses import Response

LINES_EVERY_S: Final = 0.2
SAVED_EVERY_S: Final = 1.0
MOST_WAITING: Final = 100_000
MOST_ASKED: Final = 1024
CLIENT_GONE: Final = 499
"""The status that is noted where nobody was left to answer; nginx's custom, never sent."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

_log = structlog.get_logger(__name__)


class AccessLogLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One request in the access log, its fields in the order in which they are written.

    `time_ns`: since the epoch. `path`: as sent, so anything may stand in it. `ms`: milliseconds to the answer.
    `asked`: of a token, the repositories and actions that it was asked for.
    """

    time_ns: int
    request_id: str
    address: str
    actor: str
    method: str
    path: str
    status: int
    bytes_in: int
    bytes_out: int
    ms: float
    asked: str = ""


Write = Callable[[Sequence[AccessLogLine]], None]


class RequestLog:
    """Notes requests. `write`: where lines go, None without an access log. `run`: where other workers' sums are."""

    def __init__(self, write: Write | None = None, run: RunFolder | None = None) -> None:
        self.totals = RequestMetrics()
        self.lines_wanted = True
        self._write = write
        self._run = run
        self._waiting: list[AccessLogLine] = []
        self._lost = 0
        self._prefix = os.urandom(5).hex()
        self._count = 0

    def next_id(self) -> str:
        """A number for a request, of this process alone."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def note(self, call: Request, answer: Response | None, started: float) -> None:
        """One request has been answered, or its client left (None). `started`: by `time.perf_counter`."""
        seconds = time.perf_counter() - started
        scope = call.scope
        method = scope["method"]
        bytes_in = call.received_bytes
        status, bytes_out = CLIENT_GONE, 0
        if answer is not None:
            status = answer.status
            if method != "HEAD":
                bytes_out = len(answer.body) or _length(answer)
        self.totals.request(
            (method if method in _METHODS else "other", call.route, status), seconds, bytes_in, bytes_out
        )
        if self._write is None or not self.lines_wanted:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        raw = scope.get("raw_path") or scope["path"].encode()
        client = scope.get("client")
        address, path = client[0] if client else "", raw[:1024].decode("latin-1")
        now, actor, ms = time.time_ns(), call.actor.name, round(seconds * 1000, 2)
        asked = call.asked[:MOST_ASKED]
        self._waiting.append(
            AccessLogLine(now, call.id, address, actor, method, path, status, bytes_in, bytes_out, ms, asked)
        )

    def all_totals(self) -> RequestMetrics:
        """The sums of this process and of every other of this server."""
        found = RequestMetrics()
        found.add(self.totals)
        if self._run is not None:
            found.add(self._run.others())
        return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes lines and saves sums until the block is left, and what is left of them then."""
        task = asyncio.create_task(self._keep_writing())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._flush(self._take())
            self._save()

    async def _keep_writing(self) -> None:
        saved = 0.0
        while True:
            await asyncio.sleep(LINES_EVERY_S)
            if self._waiting:
                await asyncio.shield(asyncio.to_thread(self._flush, self._take()))
            if time.monotonic() - saved >= SAVED_EVERY_S:
                saved = time.monotonic()
                await asyncio.to_thread(self._save)

    def _take(self) -> list[AccessLogLine]:
        lines, self._waiting = self._waiting, []
        return lines

    def _flush(self, lines: Sequence[AccessLogLine]) -> None:
        if self._write is not None and lines:
            with contextlib.suppress(OSError):  # a log that went away must not end the server
                self._write(lines)
        if self._lost:
            lost, self._lost = self._lost, 0
            _log.warning("the access log could not keep up", lines_lost=lost)

    def _save(self) -> None:
        if self._run is not None:
            with contextlib.suppress(OSError):  # a full disk: the sums are saved when there is room
                self._run.save(self.totals)


def _length(answer: Response) -> int:
    for name, value in answer.headers:
        if name == b"content-length":
            return int(value)
    return len(answer.body)
