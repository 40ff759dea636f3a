"""A TCP proxy in front of PostgreSQL that breaks a connection at a durable COMMIT, before or after the server has made it."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Final

COMMIT: Final = b"; COMMIT"
COMPLETE: Final = b"COMMIT\0"
"""How the server's answer names the finished statement."""
AT_ONCE: Final = 65536


class BreakingProxy:
    """Relays connections to a port. `breaks`: None, "before" or "after" the next COMMIT reaches the server.

    `statement`, `complete`: what a COMMIT and the answer to it look like; empty: every message, and any answer. `passes`: how many
    of them pass before one is broken. `refuses`: close new connections at once, as if the server could not be reached.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.breaks: str | None = None
        self.statement, self.complete = COMMIT, COMPLETE
        self.passes = 0
        self.refuses = False
        self.refuses_after_break = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(AT_ONCE)
                    if not data:
                        return
                    if source is client and self.statement in data and self.breaks is not None:
                        if self.passes == 0:
                            self._break(server, data)
                            return
                        self.passes -= 1
                    (server if source is client else client).sendall(data)

    def _break(self, server: socket.socket, data: bytes) -> None:
        when, self.breaks = self.breaks, None
        self.refuses = self.refuses_after_break
        if when == "after":
            server.sendall(data)
            answer = server.recv(AT_ONCE)
            while self.complete not in answer:
                answer += server.recv(AT_ONCE)


@contextlib.contextmanager
def breaking_proxy(port: int) -> Iterator[BreakingProxy]:
    """Run a proxy to a port of this machine."""
    proxy = BreakingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
