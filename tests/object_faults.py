"""A TCP proxy in front of a real S3 server that fails chosen requests, before they are done or after.

It takes one request per connection: it forwards the request, and relays the response to its end. So a fault hits exactly the
requests that a test chooses by method and path, whatever the client does with its connections.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from obstore.store import S3Store

from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

_READ_BYTES = 256 * 1024


class Fault(Enum):
    """What happens to a request."""

    REFUSED = "answered with 503, and not done"
    TORN = "the connection ends in the middle of the request, which is not done"
    LOST = "done, but the connection ends before the answer"
    CUT = "done, but the connection ends in the middle of the answer"
    LATE = "done two seconds later"


Plan = Callable[[str, str], Fault | None]
"""Returns the fault of a request, by its method and path; None for none."""


def no_fault(_method: str, _path: str) -> None:
    """Let every request pass."""


def on(method: str, part: str, fault: Fault) -> Plan:
    """Return a plan that fails the requests of a method whose path contains a text."""
    return lambda asked, path: fault if asked == method and part in path else None


def kind_of(method: str, path: str) -> str:
    """Return the kind of a request of a registry: its method, the folder of its key, and the part of an upload in parts."""
    key, _, query = path.partition("?")
    folders = key.split("/")[3:]
    names = {"uploads", "partNumber", "uploadId"}
    part = "+".join(sorted(names & {each.partition("=")[0] for each in query.split("&")}))
    where = "checkpoint" if folders and folders[-1] == "checkpoint" else "/".join(folders[:1])
    return f"{method} {where} {part}".strip()


@dataclass(slots=True)
class FaultyServer:
    """The proxy. `plan` and `on_lost`, which is called when a request is done whose answer will be lost, may be replaced at any time."""

    server: ObjectServer
    listener: socket.socket
    plan: Plan = no_fault
    failed: list[str] = field(default_factory=list)
    on_lost: Callable[[], None] = lambda: None

    @property
    def endpoint(self) -> str:
        """The address of the proxy."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def store(self, prefix: str) -> S3Store:
        """Return a client of the bucket through the proxy, which repeats a failed request once."""
        return S3Store(
            BUCKET,
            prefix=prefix,
            config={
                "endpoint": self.endpoint,
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
                "region": "us-east-1",
            },
            client_options={"allow_http": True, "timeout": "20s"},
            retry_config={"max_retries": 1},
        )

    def run(self) -> None:
        """Accept connections until the listener is closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(30)
            head, rest = _head(connection)
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            fault = self.plan(method, path)
            if fault is not None:
                self.failed.append(f"{method} {path}")
            if fault is Fault.TORN:
                return
            if fault is Fault.LATE:
                time.sleep(2)
            self._forward(connection, head, rest, fault)

    def _forward(self, connection: socket.socket, head: bytes, rest: bytes, fault: Fault | None) -> None:
        length = _length(head)
        if fault is Fault.REFUSED:
            while len(rest) < length:
                rest += connection.recv(_READ_BYTES)
            connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.server.port), 10) as upstream:
            upstream.settimeout(30)
            upstream.sendall(_closing(head) + rest)
            sent = len(rest)
            while sent < length:
                piece = connection.recv(_READ_BYTES)
                if not piece:
                    return
                upstream.sendall(piece)
                sent += len(piece)
            while piece := upstream.recv(_READ_BYTES):
                if fault is Fault.CUT:
                    connection.sendall(piece[: len(piece) // 2])
                    return
                if fault is not Fault.LOST:
                    connection.sendall(piece)
            if fault is Fault.LOST:
                self.on_lost()


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a request, with its end, and the bytes of the body that came with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(_READ_BYTES)
        if not piece:
            raise ConnectionError
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _closing(head: bytes) -> bytes:
    """Return a head that asks for a response whose end is that of the connection."""
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n"


@contextlib.contextmanager
def faulty(server: ObjectServer) -> Iterator[FaultyServer]:
    """Run the proxy in front of a server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = FaultyServer(server, listener)
        thread = threading.Thread(target=proxy.run, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
