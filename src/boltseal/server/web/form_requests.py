"""What a form of ours sends, and where a person goes after the login: both are checked here, before anything is done.

A form changes something, so it must come from a page of ours: what the browser says about its origin (`Sec-Fetch-Site`, `Origin`)
is checked, and the token in the form, which is made from a cookie that pages of other servers cannot read. One alone would do; old
browsers, proxies and plain HTTP each weaken one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

from boltseal.errors import Denied, ErrorCode, Invalid
from boltseal.server.api.request import DocumentTooLarge, Request
from boltseal.server.auth.page_sessions import is_form_token

MAX_FORM_BYTES: Final = 16 * 1024
FORM_TOKEN: Final = "form_token"  # noqa: S105 - a name, no secret
HOME: Final = "/ui/"
ACCOUNT: Final = "/ui/account"
MAX_RETURN: Final = 512
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
# Below /ui/, so neither `//host` nor `/\host` nor `https:` is possible. The rest is what paths and queries of ours have.
_is_own_page = re.compile(r"/ui/[A-Za-z0-9._~%/?=&:@+,-]*", re.ASCII).fullmatch


class FormInvalid(Invalid):
    """A form that cannot be read."""

    code = ErrorCode.UNSUPPORTED


class FormRefused(Denied):
    """A form that did not come from a page of ours, or of another session."""


def return_address(given: str | None) -> str:
    """Return the page to go to after a login: a page of ours, whatever was given."""
    text = given or ""
    if len(text) > MAX_RETURN or not _is_own_page(text) or "//" in text or "/." in text or text.startswith("/ui/log"):
        return HOME
    return text


def check_origin(request: Request, base_url: str | None) -> None:
    """Check that a browser sent a form from a page of this server. Raises: FormRefused."""
    fetched_from, origin = request.header(b"sec-fetch-site"), request.header(b"origin")
    if fetched_from is None and origin is None:
        raise FormRefused(
            "the form has neither Origin nor Sec-Fetch-Site; use a current browser, or the API for programs"
        )
    own = {base_url.lower()} if base_url is not None else set()
    host = (request.header(b"host") or "").lower()
    if (fetched_from is not None and fetched_from != "same-origin") or (
        origin is not None and not _is_own(origin.lower(), own, host)
    ):
        raise FormRefused("the form was sent from another site; open this page directly, and try again")


def _is_own(origin: str, own: set[str], host: str) -> bool:
    if origin in own:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and origin == f"{parts.scheme}://{host}"


async def read_form(request: Request, base_url: str | None, cookie: str) -> Mapping[str, str]:
    """Return the fields of a form of ours. `cookie`: the one that its token was made from.

    Raises: FormRefused: it is not from a page of ours. FormInvalid, DocumentTooLarge, LengthInvalid.
    """
    check_origin(request, base_url)
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise FormInvalid(f"cannot read the form; expected the content type {_FORM_TYPE}")
    try:
        raw = await request.read_body(MAX_FORM_BYTES)
    except DocumentTooLarge as error:
        raise DocumentTooLarge(f"the form has more than {MAX_FORM_BYTES} bytes; write less into it") from error
    try:
        parsed = parse_qs(raw.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError as error:
        raise FormInvalid(f"cannot read the form; expected {_FORM_TYPE}") from error
    if any(len(values) > 1 for values in parsed.values()):
        raise FormInvalid("the form has a field twice")
    form = {name: values[0] for name, values in parsed.items()}
    if not cookie or not is_form_token(cookie, form.get(FORM_TOKEN, "")):
        raise FormRefused(
            "the form is of another login, or cookies are blocked; load the page again, and send it again"
        )
    return form
