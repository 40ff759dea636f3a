"""A registry on a real socket that counts requests and answers each path as configured.

It serves HEAD and GET of manifests and blobs (with ranges), pages of tags, referrers, and, with `takes`, pushes and
mounts. Each connection is HTTP/1.1 and kept alive. `after["PUT /v2/..."]` writes the answer after the work was done.
`answers["GET /v2/..."]` replaces the answer: a function that gets the request and may write anything, also what no
registry should; the connection is closed after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.images import Document, digest_of


@dataclass(frozen=True, slots=True)
class Asked:
    """A received request, with header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str) -> str | None:
        return next(iter(parse_qs(urlsplit(self.target).query).get(name, [])), None)


Speak = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeUpstream:
    """`manifests[repository][tag or digest] = (media type, bytes)`; `blobs[digest] = bytes`."""

    port: int = 0
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    referrers: dict[str, bytes] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, Speak] = field(default_factory=dict)
    page: int = 1000
    slow_s: float = 0.0
    login: str | None = None
    takes: bool = False
    after: dict[str, Speak] = field(default_factory=dict)

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    def publish(self, repository: str, tag: str | None, document: Document) -> Document:
        """Publish a document with everything it references, under a tag if one is given."""
        held = self.manifests.setdefault(repository, {})
        held[document.digest] = (document.media_type, document.raw)
        if tag is not None:
            held[tag] = held[document.digest]
        self.blobs |= {blob.digest: blob.data for blob in document.blobs}
        for child in document.children:
            self.publish(repository, None, child)
        return document

    def gets(self, what: str = "") -> int:
        """Return the number of GETs of paths that contain this text."""
        return sum(count for key, count in self.counted.items() if key.startswith("GET ") and what in key)

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[FakeUpstream]:
        """Answer on loopback until the block is left."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self._serve(reader, writer)
            writer.transport.abort()
            tasks.discard(task)

        server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls, backlog=2048)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def listening_in_thread(self) -> Iterator[FakeUpstream]:
        """Answer on loopback, in a thread with its own event loop, until the block is left."""
        ready, ending = threading.Event(), threading.Event()

        async def run() -> None:
            async with self.listening():
                ready.set()
                await asyncio.to_thread(ending.wait)

        thread = threading.Thread(target=asyncio.run, args=(run(),))
        thread.start()
        try:
            ready.wait()
            yield self
        finally:
            ending.set()
            thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            asked = Asked(method, target, {name.lower(): value for name, value in headers.items()})
            self.asked.append(asked)
            key = f"{method} {asked.path}"
            self.counted[key] += 1
            body = await _body(reader, asked)
            configured = self.answers.get(key) or self.answers.get("*")
            if configured is not None:
                await configured(asked, writer)
                await writer.drain()
                return
            found = self._taken(asked, body) if asked.method in ("POST", "PUT") else self._found(asked)
            if key in self.after:
                await self.after[key](asked, writer)
                return
            await self._answer(asked, found, writer)
            await writer.drain()

    def _taken(self, asked: Asked, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Accept a push; content is stored if its digest is right."""
        if not self.takes:
            return 405, {}, b""
        name, kind, reference = _split(asked.path.rstrip("/"))
        if asked.method == "POST":
            mount, source = asked.query("mount"), asked.query("from")
            if mount in self.blobs and source in self.manifests:
                return 201, {"location": f"/v2/{name}/blobs/{mount}"}, b""
            return 202, {"location": f"/v2/{name.removesuffix('/blobs')}/blobs/uploads/1?state=a"}, b""
        if kind == "manifests":
            held = self.manifests.setdefault(name, {})
            if asked.headers.get("if-none-match") == "*" and reference in held:
                return 412, {}, b""
            held[reference] = held[digest_of(body)] = (asked.headers["content-type"], body)
            return 201, {"docker-content-digest": digest_of(body)}, b""
        digest = asked.query("digest") or ""
        if digest_of(body) != digest:
            return 400, {}, b""
        self.blobs[digest] = body
        return 201, {}, b""

    async def _answer(
        self, asked: Asked, found: tuple[int, dict[str, str], bytes], writer: asyncio.StreamWriter
    ) -> None:
        status, headers, body = found
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode())
        if asked.method == "HEAD":
            return
        if self.slow_s and "/blobs/" in asked.target:
            half = len(body) // 2
            writer.write(body[:half])
            await writer.drain()
            await asyncio.sleep(self.slow_s)  # the slow upstream
            writer.write(body[half:])
            return
        writer.write(body)

    def _found(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if self.login is not None and asked.headers.get("authorization") != self.login:
            return 401, {"www-authenticate": 'Basic realm="upstream"'}, b""
        if asked.path == "/v2/":
            return 200, {"docker-distribution-api-version": "registry/2.0"}, b"{}"
        name, kind, reference = _split(asked.path)
        if kind == "manifests" and reference in self.manifests.get(name, {}):
            media_type, raw = self.manifests[name][reference]
            return 200, {"content-type": media_type, "docker-content-digest": digest_of(raw)}, raw
        if kind == "blobs" and reference in self.blobs:
            body = self.blobs[reference]
            asked_for = asked.headers.get("range")
            if asked_for is None:
                return 200, {}, body
            start = int(asked_for.removeprefix("bytes=").removesuffix("-"))
            return 206, {"content-range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:]
        if kind == "tags" and name in self.manifests:
            return self._tags(asked, name)
        if kind == "referrers" and reference in self.referrers:
            return 200, {"content-type": "application/vnd.oci.image.index.v1+json"}, self.referrers[reference]
        return 404, {}, b'{"errors":[{"code":"NAME_UNKNOWN","message":"not here"}]}'

    def _tags(self, asked: Asked, name: str) -> tuple[int, dict[str, str], bytes]:
        names = sorted(tag for tag in self.manifests[name] if ":" not in tag)
        rest = [tag for tag in names if tag > (asked.query("last") or "")]
        wanted = min(int(asked.query("n") or self.page), self.page)
        shown = rest[:wanted]
        more = {"link": f'</v2/{name}/tags/list?n={wanted}&last={shown[-1]}>; rel="next"'} if rest[wanted:] else {}
        return 200, more, json.dumps({"name": name, "tags": shown}).encode()


async def _body(reader: asyncio.StreamReader, asked: Asked) -> bytes:
    if asked.headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(asked.headers.get("content-length", "0")))
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(chunks)


def _split(path: str) -> tuple[str, str, str]:
    rest, _, reference = path.removeprefix("/v2/").rpartition("/")
    name, _, kind = rest.rpartition("/")
    return name, kind, reference


def status(code: int, body: bytes = b"", **headers: str) -> Speak:
    """Return an answer with this status for any request."""

    async def speak(_: Asked, writer: asyncio.StreamWriter) -> None:
        header_lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write(
            "\r\n".join([f"HTTP/1.1 {code} X", *header_lines, f"content-length: {len(body)}", "", ""]).encode() + body
        )

    return speak


def raw(*parts: bytes) -> Speak:
    """Return an answer of exactly these bytes, after which the connection ends."""

    async def speak(_: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return speak
