"""An ASGI application that answers every path with a file's bytes: what granian costs without a registry behind it.

`BENCH_BARE_ROOT` is a folder with the files, as nginx serves them. Small files are answered from memory, large ones are
sent by granian, as boltseal does both.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from starlette.types import Receive, Scope, Send

from boltseal.server.api.blobs import SMALL_BYTES

ROOT = Path(os.environ["BENCH_BARE_ROOT"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a GET or HEAD of a file below the root."""
    if scope["type"] != "http":
        return
    headers, path, raw = _answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if raw is None:
        await send({"type": "http.response.pathsend", "path": path})
    else:
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else raw})


@cache
def _answer(path: str) -> tuple[tuple[tuple[bytes, bytes], ...], str, bytes | None]:
    """Return headers as many as boltseal's, the file's path, and its bytes if it is small."""
    file = ROOT / path.lstrip("/")
    size = file.stat().st_size
    headers = (
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % size),
        (b"docker-content-digest", b"sha256:" + b"0" * 64),
        (b"etag", b'"sha256:' + b"0" * 64 + b'"'),
        (b"cache-control", b"max-age=31536000, immutable"),
        (b"x-content-type-options", b"nosniff"),
    )
    return headers, str(file), file.read_bytes() if size <= SMALL_BYTES else None
