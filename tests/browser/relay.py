"""A server in front of a registry, which relays its answers unchanged, or falsified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

PASSED_ON = ("content-type", "access-control-allow-origin", "content-security-policy", "x-content-type-options")
Lie = Callable[[bytes], bytes]


@dataclass(slots=True)
class Relay:
    """A running relay. `lies`: the function that falsifies the body, by path. `pages`: pages of the relay itself, by path.

    `endless`: paths with an answer that never ends. `silent`: paths without an answer. `asked`: the paths of all requests.
    """

    port: int = 0
    lies: dict[str, Lie] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    ending: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def relaying(registry: str, headers: Mapping[str, str] | None = None) -> Iterator[Relay]:
    """Relay to the registry at a URL until the block is left. `headers`: of every answer."""
    relay = Relay()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            relay.asked.append(self.path)
            if self.path in relay.silent:
                relay.ending.wait(60)
                self.close_connection = True
                return
            if self.path in relay.endless:
                self._answer_without_end()
                return
            if self.path in relay.pages:
                found = [("content-type", "text/html; charset=utf-8")]
                status, body = 200, relay.pages[self.path].encode()
            else:
                answer = httpx2.get(f"{registry}{self.path}")
                found = [(name, answer.headers[name]) for name in PASSED_ON if name in answer.headers]
                status, body = answer.status_code, answer.content
            body = relay.lies.get(self.path, bytes)(body)
            self.send_response(status)
            for name, value in (*found, *(headers or {}).items(), ("content-length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _answer_without_end(self) -> None:
            self.send_response(200)
            self.send_header("access-control-allow-origin", "*")
            self.end_headers()
            self.close_connection = True
            try:
                while not relay.ending.is_set():
                    self.wfile.write(b"x" * 65536)
                    relay.sent_bytes += 65536
            except OSError:
                pass  # the browser has left

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    relay.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield relay
    finally:
        relay.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()
