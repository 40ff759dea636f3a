"""The load: one process, at most one thread per core, that sends requests faster than any server here answers.

`wrk` requests small bodies. What it can't do is done here on plain sockets: HEAD (wrk waits for a body), whole
files (it reads 8 KiB at a time) and pushes. Rules: connections stay open, every answer's status is
checked, and an answer that is not the expected one ends the run.
"""

from __future__ import annotations

import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.content import DistinctBlobs
from tests.programs import program

CONNECTIONS = 32
BUFFER_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"


class WrongAnswer(RuntimeError):
    """A server did not answer as expected, so that a figure would be wrong."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers per second, and the time within which 99 of 100 arrived."""

    per_second: float
    p99_ms: float


# --- small things, by wrk ---------------------------------------------------------------------------------------


def wrk(
    url: str,
    seconds: float,
    headers: Sequence[str] = (),
    connections: int = CONNECTIONS,
    script: Path | None = None,
) -> Rate:
    """GET one URL repeatedly. `script`: in Lua, chooses the path of each request instead."""
    asked = [part for header in headers for part in ("-H", header)]
    asked += ["-s", str(script)] if script else []
    output = subprocess.run(
        [program("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", *asked, url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise WrongAnswer(output)
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", output, re.MULTILINE)
    p99 = re.search(r"^\s+99%\s+([\d.]+)(us|ms|s)", output, re.MULTILINE)
    if rate is None or p99 is None:
        raise WrongAnswer(output)
    return Rate(float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]])


# --- HEAD, on sockets -------------------------------------------------------------------------------------------


def hammer(address: str, request: bytes, seconds: float, connections: int = CONNECTIONS) -> float:
    """Send one request whose answer has no body repeatedly; return answers per second."""
    poll = select.epoll()
    open_sockets = [_connect(address) for _ in range(connections)]
    by_number = {one.fileno(): one for one in open_sockets}
    for one in open_sockets:
        one.setblocking(True)  # a timeout would cost another system call for each read
        poll.register(one.fileno(), select.EPOLLIN)
        one.sendall(request)
    count = 0
    started = time.perf_counter()
    end = started + seconds
    while time.perf_counter() < end:
        for number, _ in poll.poll(60):
            one = by_number[number]
            answer = one.recv(8192)
            if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(HEAD_END):
                raise WrongAnswer(answer.decode("latin-1"))
            count += 1
            one.sendall(request)
    elapsed = time.perf_counter() - started
    for one in open_sockets:
        one.close()
    poll.close()
    return count / elapsed


# --- requests at a fixed rate, beside another load ----------------------------------------------------------------


def paced_times(
    address: str, request: bytes, per_second: float, seconds: float, connections: int = CONNECTIONS
) -> Rate:
    """Send one request at a fixed rate. A time counts from when the request was due, so that waiting for a free connection is in it."""
    poll = select.epoll()
    by_number = {one.fileno(): one for one in (_connect(address) for _ in range(connections))}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    free, due_s, received = list(by_number), dict[int, float](), dict[int, bytes]()
    taken: list[float] = []
    started = time.perf_counter()
    sent, wanted = 0, round(per_second * seconds)
    while len(taken) < wanted:
        now = time.perf_counter() - started
        while free and sent < wanted and sent / per_second <= now:
            number = free.pop()
            due_s[number], received[number] = sent / per_second, b""
            by_number[number].sendall(request)
            sent += 1
        wait_s = max(0.0, sent / per_second - now) if free and sent < wanted else 60.0
        for number, _ in poll.poll(wait_s):
            received[number] += by_number[number].recv(BUFFER_BYTES)
            head, end, body = received[number].partition(HEAD_END)
            if not received[number].startswith(b"HTTP/1.1 200"[: len(received[number])]) or not received[number]:
                raise WrongAnswer(received[number].decode("latin-1"))
            if end and len(body) >= _content_length(head + end):
                taken.append(time.perf_counter() - started - due_s[number])
                free.append(number)
    elapsed = time.perf_counter() - started
    for one in by_number.values():
        one.close()
    poll.close()
    return Rate(len(taken) / elapsed, sorted(taken)[-max(1, len(taken) // 100)] * 1000)


class Paced:
    """Sends requests in turn at a fixed rate, on connections that stay open, while the block runs.

    `answered`: how many got 200; `refused`: another status. A late answer delays only the next request of its connection.
    """

    def __init__(
        self, address: str, requests: Sequence[bytes], per_second: float, connections: int = CONNECTIONS
    ) -> None:
        self._address = address
        self._requests = requests
        self._every_s = connections / per_second
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(connections)]
        self.answered = self.refused = 0

    def __enter__(self) -> Paced:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        with _connect(self._address) as connection:
            next_s = time.perf_counter() + self._every_s * number / len(self._threads)
            while not self._stop.wait(max(0.0, next_s - time.perf_counter())):
                connection.sendall(self._requests[number % len(self._requests)])
                head, rest = _read_head(connection)
                left = _content_length(head) - len(rest)
                while left > 0:
                    left -= len(connection.recv(min(left, BUFFER_BYTES)))
                with self._lock:
                    self.answered += head.startswith(b"HTTP/1.1 200")
                    self.refused += not head.startswith(b"HTTP/1.1 200")
                number += len(self._threads)
                next_s += self._every_s


# --- whole files ------------------------------------------------------------------------------------------------


def download(address: str, path: str, seconds: float, headers: Sequence[str] = ()) -> float:
    """GET one large body repeatedly on one connection; return its bytes per second."""
    lines = "".join(f"{header}\r\n" for header in headers)
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n".encode()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    received = 0
    with _connect(address) as connection:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            connection.sendall(request)
            head, rest = _read_head(connection)
            if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")):
                raise WrongAnswer(head.decode("latin-1"))
            length = _content_length(head)
            left = length - len(rest)
            while left:
                got = connection.recv_into(buffer, min(left, BUFFER_BYTES))
                if not got:
                    raise WrongAnswer(f"{path}: {left} bytes are missing")
                left -= got
            received += length
        return received / (time.perf_counter() - started)


# --- pushes -----------------------------------------------------------------------------------------------------


def push_blobs(
    address: str,
    repository: str,
    size: int,
    *,
    until: Callable[[int], bool],
    after_each: Callable[[], None] | None = None,
) -> float:
    """Push blobs one after the other on one connection; return bytes per second.

    Args:
        until: asked with the number of blobs pushed so far whether that is enough.
        after_each: counted in; what a server leaves to others before a blob is safe.
    """
    pushed = 0
    blobs = iter(DistinctBlobs.of(size))
    with _connect(address) as connection:
        started = time.perf_counter()
        while not until(pushed):
            head, tail, digest = next(blobs)
            connection.sendall(_start_upload(address, repository))
            target = _location(_whole_answer(connection, b"202"))
            connection.sendall(_finish_upload(address, target, digest, size))
            connection.sendall(head)
            connection.sendall(tail)
            _whole_answer(connection, b"201")
            if after_each is not None:
                after_each()
            pushed += 1
        return pushed * size / (time.perf_counter() - started)


def push_small_blobs(address: str, repository: str, size: int, seconds: float, connections: int) -> float:
    """Push small blobs on many connections at once; return blobs per second."""
    blobs = iter(DistinctBlobs.of(size))
    done = 0

    def pusher() -> Generator[bytes, bytes, None]:
        """A connection as a generator: yields requests, receives complete answers."""
        nonlocal done
        while True:
            head, tail, digest = next(blobs)
            target = _location(_expected((yield _start_upload(address, repository)), b"202"))
            _expected((yield _finish_upload(address, target, digest, size) + head + tail), b"201")
            done += 1

    poll = select.epoll()
    pushers: dict[int, tuple[socket.socket, Generator[bytes, bytes, None]]] = {}
    for _ in range(connections):
        connection, one = _connect(address), pusher()
        pushers[connection.fileno()] = connection, one
        poll.register(connection.fileno(), select.EPOLLIN)
        connection.sendall(next(one))
    started = time.perf_counter()
    end = started + seconds
    while time.perf_counter() < end:
        for number, _ in poll.poll(seconds):
            connection, one = pushers[number]
            head, _rest = _read_head(connection)
            connection.sendall(one.send(head))
    elapsed = time.perf_counter() - started
    for connection, _ in pushers.values():
        connection.close()
    poll.close()
    return done / elapsed


class Pushers:
    """Connections that push blobs without a pause until they are stopped, after which `bytes_per_second` is known."""

    def __init__(self, address: str, repository: str, size: int, count: int) -> None:
        DistinctBlobs.of(size)  # made now, not during a measurement
        self._stop = threading.Event()
        self._rates: list[float] = []
        self._threads = [
            threading.Thread(
                target=lambda: self._rates.append(
                    push_blobs(address, repository, size, until=lambda _: self._stop.is_set())
                )
            )
            for _ in range(count)
        ]

    def __enter__(self) -> Pushers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def bytes_per_second(self) -> float:
        """Return the sum of all connections.

        Raises:
            WrongAnswer: one of them ended before it was stopped.
        """
        if len(self._rates) != len(self._threads):
            raise WrongAnswer("a push ended early; its thread has printed why")
        return sum(self._rates)


# --- HTTP, as much as is needed ---------------------------------------------------------------------------------


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _start_upload(address: str, repository: str) -> bytes:
    return f"POST /v2/{repository}/blobs/uploads/ HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n".encode()


def _finish_upload(address: str, target: str, digest: str, size: int) -> bytes:
    mark = "&" if "?" in target else "?"
    return (
        f"PUT {target}{mark}digest={digest} HTTP/1.1\r\nHost: {address}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def _location(head: bytes) -> str:
    """Return the path at which an upload continues, without the server's own name."""
    found = re.search(rb"\r\nlocation: (?:http://[^/]+)?(\S+)\r\n", head, re.IGNORECASE)
    if found is None:
        raise WrongAnswer(head.decode("latin-1"))
    return found[1].decode()


def _whole_answer(connection: socket.socket, status: bytes) -> bytes:
    return _expected(_read_head(connection)[0], status)


def _expected(head: bytes, status: bytes) -> bytes:
    if not head.startswith(b"HTTP/1.1 " + status) or _content_length(head):
        raise WrongAnswer(head.decode("latin-1"))
    return head


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of an answer, with the part of its body that came with it."""
    data = b""
    while HEAD_END not in data:
        more = connection.recv(65536)
        if not more:
            raise WrongAnswer(f"the connection was closed after {data!r}")
        data += more
    head, end, rest = data.partition(HEAD_END)
    return head + end, rest


def _content_length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
    return int(found[1]) if found else 0
