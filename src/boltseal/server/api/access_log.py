"""Count each request and write the access log.

This is on the path of every pull, so it only appends and adds. A thread passes the lines to `write` about five times a
second. A log that cannot keep up drops lines and reports how many; it never delays requests.

A line has neither the query string, which the client controls, nor any header except our request ID. For a token it
has the parsed scopes. For a body whose framing is malformed it has the header that announced the body, quoted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog

from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.storage.metadata.protocol import WriteQueue
from boltseal.server.storage.metrics import RequestMetrics, RunFolder, WorkerRestarts
from boltseal.server.storage.worker_threads import finish_in_thread

LINES_EVERY_S: Final = 0.2
SAVED_EVERY_S: Final = 1.0
MAX_QUEUED_LINES: Final = 100_000
MAX_ASKED_CHARACTERS: Final = 1024
CLIENT_GONE: Final = 499
"""The status logged when the client left before the response; never sent. nginx uses the same number."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

_log = structlog.get_logger(__name__)


class AccessLogLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One request in the access log; the fields are written in this order.

    `time_ns`: since the epoch. `path`: as sent, so it may contain any byte. `ms`: milliseconds until the response.
    `asked`: for a token, the requested repositories and actions. `fault`: what is wrong with the framing of the body.
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
    fault: str = ""


Write = Callable[[Sequence[AccessLogLine]], None]


class RequestLog:
    """Records requests. `write`: takes the lines, None without an access log. `run`: has the other workers' totals."""

    def __init__(self, write: Write | None = None, run: RunFolder | None = None) -> None:
        self.totals = RequestMetrics()
        self.lines_wanted = True
        self.write_queue: Callable[[], WriteQueue] = WriteQueue
        self._write = write
        self._run = run
        self._saving = threading.Lock()
        self._queue: list[AccessLogLine] = []
        self._dropped = 0
        self._prefix = os.urandom(5).hex()
        self._count = 0

    def next_id(self) -> str:
        """Return a request ID that is unique in this process and unlikely to repeat in another."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def note(self, request: Request, response: Response | None, started: float) -> None:
        """Record a response, or None if the client left. `started`: by `time.perf_counter`."""
        seconds = time.perf_counter() - started
        scope = request.scope
        method = scope["method"]
        bytes_in = request.received_bytes
        status, bytes_out = CLIENT_GONE, 0
        if response is not None:
            status = response.status
            if method != "HEAD":
                bytes_out = len(response.body) or _body_length(response)
        self.totals.request(
            (method if method in _METHODS else "other", request.route, status), seconds, bytes_in, bytes_out
        )
        if self._write is None or not self.lines_wanted:
            return
        if len(self._queue) >= MAX_QUEUED_LINES:
            self._dropped += 1
            return
        raw = scope.get("raw_path") or scope["path"].encode()
        client = scope.get("client")
        address, path = client[0] if client else "", raw[:1024].decode("latin-1")
        now, actor, ms = time.time_ns(), request.sender.recorded, round(seconds * 1000, 2)
        asked = request.asked[:MAX_ASKED_CHARACTERS]
        self._queue.append(
            AccessLogLine(
                now, request.id, address, actor, method, path, status, bytes_in, bytes_out, ms, asked, request.fault
            )
        )

    def all_totals(self) -> RequestMetrics:
        """Return the totals of all workers of this server. Saved first: no counter decreases if this worker dies now."""
        self._save()
        totals = RequestMetrics()
        totals.add(self.totals)
        if self._run is not None:
            totals.add(self._run.others())
        return totals

    def all_write_queues(self) -> dict[int, WriteQueue]:
        """Return the write queue of each running worker by process ID."""
        others = {} if self._run is None else self._run.write_queues()
        return {**others, os.getpid(): self.write_queue()}

    @property
    def restarts(self) -> WorkerRestarts:
        """Which workers of this server ended unexpectedly. Reads a small file."""
        return WorkerRestarts() if self._run is None else self._run.restarts()

    @property
    def server_pid(self) -> int:
        """The process ID of the server: the parent of the workers, or this process if there is none."""
        return os.getpid() if self._run is None else self._run.server_pid

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write lines and save totals until the block ends, then write what remains."""
        task = asyncio.create_task(self._write_loop())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._flush(self._take_queue())
            self._save()

    async def _write_loop(self) -> None:
        saved = 0.0
        while True:
            await asyncio.sleep(LINES_EVERY_S)
            if self._queue:
                await finish_in_thread(self._flush, self._take_queue())
            if time.monotonic() - saved >= SAVED_EVERY_S:
                saved = time.monotonic()
                await finish_in_thread(self._save)

    def _take_queue(self) -> list[AccessLogLine]:
        lines, self._queue = self._queue, []
        return lines

    def _flush(self, lines: Sequence[AccessLogLine]) -> None:
        if self._write is not None and lines:
            with contextlib.suppress(OSError):  # a closed log must not end the server
                self._write(lines)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            _log.warning("access log lines dropped", lines_dropped=dropped)

    def _save(self) -> None:
        self.totals.cpu_seconds = time.process_time()
        if self._run is not None:
            with self._saving, contextlib.suppress(OSError):  # a full disk: the next save tries again
                self._run.save(self.totals, self.write_queue())


def _body_length(response: Response) -> int:
    for name, value in response.headers:
        if name == b"content-length":
            return int(value)
    return len(response.body)
