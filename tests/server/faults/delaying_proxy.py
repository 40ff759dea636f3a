"""A TCP proxy that delivers what a client sends after a while, so that each round trip takes that much longer."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

AT_ONCE: Final = 65536


class DelayingProxy:
    """Relays connections to a port. `delay_s`: how much later the server gets what clients send; may change at any time."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0
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
                server = socket.create_connection(self._target)
            except OSError:
                return
            sent: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for work in (self._receive, self._deliver):
                threading.Thread(target=work, args=(client, server, sent), daemon=True).start()
            threading.Thread(target=_relay, args=(server, client), daemon=True).start()

    def _receive(
        self, client: socket.socket, _server: socket.socket, sent: queue.SimpleQueue[tuple[float, bytes]]
    ) -> None:
        data = b"."
        while data:
            try:
                data = client.recv(AT_ONCE)
            except OSError:
                data = b""
            sent.put((time.monotonic() + self.delay_s, data))

    def _deliver(
        self, client: socket.socket, server: socket.socket, sent: queue.SimpleQueue[tuple[float, bytes]]
    ) -> None:
        with client, server, contextlib.suppress(OSError):
            while True:
                due_s, data = sent.get()
                time.sleep(max(0.0, due_s - time.monotonic()))
                if not data:
                    server.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(AT_ONCE):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def delaying_proxy(port: int) -> Iterator[DelayingProxy]:
    """Run a proxy to a port of this machine, at first without a delay."""
    proxy = DelayingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
