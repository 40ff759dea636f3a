"""The HTTPS side of the scripted API server, with faults: lost connections before and after a request is carried out."""

from __future__ import annotations

import json
import re
import ssl
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

Document = dict[str, Any]


class Refused(Exception):
    """An answer with a status."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Document] | None = None) -> None:
        super().__init__(message)
        details = {"causes": causes} if causes else {}
        self.code = code
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code, "details": details,
        }  # fmt: skip


@dataclass
class Fault:
    """What goes wrong with requests that match `METHOD PATH?QUERY`.

    `refused`: the answer. `answered`: a malformed answer with status 200, to a request that is carried out. `carried_out`: the request is carried out before its answer is lost. Neither: the connection is closed at once.
    `times`: how often; `after`: how many requests are answered before.
    """

    pattern: str
    refused: Refused | None = None
    answered: Any = None
    carried_out: bool = False
    times: int = 1_000_000
    after: int = 0


class Answering(Protocol):
    """What answers requests."""

    faults: list[Fault]
    asked: list[str]
    defects: list[str]
    lock: RLock

    def on_request(self, asked: str, /) -> None:
        """Called before each request is answered."""

    def answer(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Any:
        """Return a document, a text, or an iterator of a watch. Raises: Refused."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    api: Answering

    def handle_error(self, *_: object) -> None:
        """Ignore clients that are gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _handle(self) -> None:
        body = self._body()
        fault = self._fault(f"{self.command} {self.path}")
        if fault is not None and fault.refused is None and fault.answered is None and not fault.carried_out:
            self._close()
            return
        try:
            if fault is not None and fault.refused is not None:
                raise fault.refused
            headers = {key.lower(): value for key, value in self.headers.items()}
            answer = self.server.api.answer(self.command, self.path, body, headers)
        except Refused as error:
            self._send(error.code, error.status)
            return
        except Exception:
            self.server.api.defects.append(traceback.format_exc())
            raise
        if fault is not None and fault.answered is not None:
            self._send(200, fault.answered)
        elif fault is not None:
            self._close()
        elif isinstance(answer, Iterator):
            self._stream(answer)
        else:
            self._send(201 if self.command == "POST" else 200, answer)

    def _fault(self, asked: str) -> Fault | None:
        """Note a request, and return what goes wrong with it."""
        api = self.server.api
        api.on_request(asked)
        with api.lock:
            api.asked.append(asked)
            fault = next((each for each in api.faults if each.times and re.search(each.pattern, asked)), None)
            if fault is not None and fault.after:
                fault.after -= 1
                return None
            if fault is not None:
                fault.times -= 1
            return fault

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _close(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def _send(self, code: int, answer: Any) -> None:
        if isinstance(answer, str):
            raw, kind = answer.encode(), "text/plain"
        else:
            raw, kind = json.dumps(answer).encode(), "application/json"
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _stream(self, events: Iterator[Document]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for each in events:
                raw = json.dumps(each).encode() + b"\n"
                self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - names of the library


def listener(api: Answering, folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server that is bound and does not listen yet. `folder`: has server.crt and server.key."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.api = api
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server
