"""A TCP proxy that notes when each request to an object store begins and ends, and lets each take a while."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

AT_ONCE: Final = 65536


@dataclass(slots=True)
class RoundTrip:
    """One request. Times in monotonic seconds. `line`: method and path."""

    line: str
    began_s: float
    ended_s: float = 0.0


class CountingProxy:
    """Relays connections to an HTTP server. `delay_s`: how much later than sent each request reaches it."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = delay_s
        self.seen: list[RoundTrip] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def in_sequence(self, since_s: float, until_s: float) -> list[RoundTrip]:
        """Return the longest chain of requests of which each began after the end of the one before."""
        chain: list[RoundTrip] = []
        inside = [each for each in self.seen if each.began_s > since_s and 0 < each.ended_s <= until_s]
        for each in sorted(inside, key=lambda trip: trip.ended_s):
            if not chain or each.began_s >= chain[-1].ended_s:
                chain.append(each)
        return chain

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
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        """Relay requests, each of which begins after the answer to the one before."""
        trip: RoundTrip | None = None
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(AT_ONCE)
                    if not data:
                        return
                    if source is server:
                        if trip is not None and not data.startswith(b"HTTP/1.1 100"):
                            trip.ended_s = time.monotonic()
                        client.sendall(data)
                        continue
                    if trip is None or trip.ended_s:
                        trip = RoundTrip(data.split(b"\r\n", 1)[0].decode("latin-1"), time.monotonic())
                        self.seen.append(trip)
                        time.sleep(self.delay_s)
                    server.sendall(data)


@contextlib.contextmanager
def counting_proxy(port: int, delay_s: float) -> Iterator[CountingProxy]:
    """Run a proxy to a port of this machine."""
    proxy = CountingProxy(port, delay_s)
    try:
        yield proxy
    finally:
        proxy.close()
