"""Renders pages from templates: every value is escaped, and every page forbids scripts, frames and other hosts.

Nothing that a person or a provider chose is in a header or outside of an escaped text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from boltseal.ledger.entry import format_time
from boltseal.server.api import responses
from boltseal.server.api.responses import Headers, Response
from boltseal.server.web import formats

HTML: Final = "text/html; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
FOLDER: Final = Path(__file__).parent / "templates"
PAGE_HEADERS: Final[Headers] = (
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    # Not no-referrer, with which browsers send `Origin: null` with the forms of our own pages.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Templates:
    """The templates of all pages, read when they are first used."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals["address"] = formats.address
        self._environment.filters |= {
            "time": format_time,
            "size": formats.size_text,
            "second": formats.second_of,
            "relative": formats.relative,
            "short": formats.short_digest,
        }

    def share(self, **values: Any) -> None:
        """Pass these values to the templates of all pages."""
        self._environment.globals |= values

    def page(self, name: str, *, status: int = 200, extra: Headers = (), **values: Any) -> Response:
        """Return a page. `extra`: further headers, such as cookies."""
        body = self._environment.get_template(f"{name}.html").render(**values).encode()
        return responses.with_body(body, HTML, status=status, extra=(*PAGE_HEADERS, *extra))


def redirect(address: str, extra: Headers = ()) -> Response:
    """Return a redirect after which the browser sends a GET. `address`: checked, in ASCII."""
    location = ((b"location", address.encode("ascii")),)
    return responses.with_body(b"", HTML, status=303, extra=(*location, *PAGE_HEADERS, *extra))


def stylesheet() -> Response:
    """Return the stylesheet of all pages."""
    return responses.with_body((FOLDER / "pages.css").read_bytes(), CSS, cache_control="max-age=300")
