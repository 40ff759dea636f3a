"""The scripts and the icon of pages, and the page that people save on their disk to check proofs.

    /ui/static/<version>/<name>    the file under its version, which is a hash of all files: cacheable for ever
    /ui/static/<name>              the current file, cacheable for five minutes
    /ui/verify.html                a download: opened at its server, it would check that server with that server's code

The version is a folder, so that a script imports another one in the same version. The files are the same for
every client and need no login. Nothing is compiled: what is served is what is in the package.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

from boltseal.server.api import responses
from boltseal.server.api.errors import RouteUnknown
from boltseal.server.api.responses import Headers, Response
from boltseal.server.web.rendering import HTML, PAGE_HEADERS

STATIC_PREFIX: Final = "/ui/static/"
VERIFY_PATH: Final = "/ui/verify.html"
VERIFY_PAGE: Final = "verify.html"
FOLDER: Final = Path(__file__).parent / "static"
SCRIPT: Final = "text/javascript; charset=utf-8"
_TYPES: Final = {"proof.js": SCRIPT, "verify.js": SCRIPT, "icon.svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_FIVE_MINUTES: Final = "public, max-age=300"
_DOWNLOAD: Final[Headers] = ((b"content-disposition", b'attachment; filename="boltseal-verify.html"'),)


class StaticFiles:
    """The files, read once; `verify.html` at each request."""

    def __init__(self) -> None:
        self._files = {name: (FOLDER / name).read_bytes() for name in _TYPES}
        self.version = sha256(b"".join(self._files[name] for name in _TYPES)).hexdigest()[:16]

    def address(self, name: str) -> str:
        """Return the address of a file for a page: that of its version."""
        return f"{STATIC_PREFIX}{self.version}/{name}"

    def file(self, path: str) -> Response:
        """Return the file of a path below `STATIC_PREFIX`. Raises: RouteUnknown."""
        version, slash, name = path.removeprefix(STATIC_PREFIX).rpartition("/")
        body = self._files.get(name)
        if body is None or (slash and version != self.version):
            raise RouteUnknown("there is no such file")
        return responses.with_body(body, _TYPES[name], cache_control=_FOR_EVER if slash else _FIVE_MINUTES)

    def verify_page(self) -> Response:
        """Return `verify.html`, as a download. Reads the file: call it in a thread."""
        body = (FOLDER / VERIFY_PAGE).read_bytes()
        return responses.with_body(body, HTML, cache_control=_FIVE_MINUTES, extra=(*PAGE_HEADERS, *_DOWNLOAD))
