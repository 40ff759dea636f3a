"""The next page of a list, by the `Link` header of a registry's answer."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit


def next_page(link: str, request_path: str) -> str | None:
    """Return the path of the next page from a `Link` header (RFC 8288), or None; a link to another host is ignored."""
    target, _, parameters = link.partition(">")
    if not target.startswith("<") or 'rel="next"' not in parameters.replace("rel=next", 'rel="next"'):
        return None
    parts = urlsplit(urljoin(f"http://registry{request_path}", target[1:]))
    return parts.path + (f"?{parts.query}" if parts.query else "")
