"""A TCP proxy that can stop to pass anything, as a network does that is partitioned: nothing is refused, nothing answers."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Final

AT_ONCE: Final = 65536


class Partition:
    """Relays connections to a port until `cut` is called, and again after `heal`."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._passes = threading.Event()
        self._passes.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Pass nothing from now on, in either direction; new connections are accepted and get no answer."""
        self._passes.clear()

    def heal(self) -> None:
        """Pass everything again, also what was sent meanwhile."""
        self._passes.set()

    def close(self) -> None:
        """Accept no more connections, and pass what waits."""
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        self._passes.wait()
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(AT_ONCE)
                    if not data:
                        return
                    self._passes.wait()
                    (server if source is client else client).sendall(data)


@contextlib.contextmanager
def partition(port: int) -> Iterator[Partition]:
    """Run a proxy to a port of this machine, which passes everything at first."""
    proxy = Partition(port)
    try:
        yield proxy
    finally:
        proxy.close()
