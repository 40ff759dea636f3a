"""Logs in to the pages of a registry as a browser does: with its cookies, and the forms that it got."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2

from boltseal.server.settings import Settings
from tests.fakes.provider import ALICE, SECRET, Provider
from tests.logins import AUTH, with_users
from tests.serving import ORIGIN, Serving


class Browser:
    """A browser with cookies of its own at one registry. It follows no redirect."""

    def __init__(self, registry: Serving, *, origin: str = ORIGIN) -> None:
        transport = httpx2.ASGITransport(app=registry.app)
        self.http = httpx2.AsyncClient(transport=transport, base_url=origin, follow_redirects=False)
        self.origin = origin

    @classmethod
    def at(cls, registry: Serving, cookies: httpx2.Cookies) -> Browser:
        """Return a browser that has another one's cookies, at a registry that was restarted."""
        browser = cls(registry)
        browser.http.cookies = cookies
        return browser

    async def get(self, path: str, **options: object) -> httpx2.Response:
        """Request a page."""
        return await self.http.get(path, **options)  # type: ignore[arg-type]  # passed on as they are

    async def post(
        self, path: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Send a form as from a page of this registry, unless `headers` say otherwise."""
        own = {"origin": self.origin, "sec-fetch-site": "same-origin"}
        return await self.http.post(path, data=dict(fields), headers=own if headers is None else dict(headers))

    async def form_token(self, path: str = "/ui/login") -> str:
        """Return the token of the first form of a page."""
        return form_token(await self.get(path))

    async def login(self, user: str, password: str, **more: str) -> httpx2.Response:
        """Fill in the form and send it."""
        fields = {"form_token": await self.form_token(), "user": user, "password": password, **more}
        return await self.post("/ui/login", fields)

    async def begin(self, return_to: str = "") -> str:
        """Begin a login at the provider. Return the address to which the browser is sent."""
        answer = await self.get("/ui/login/provider", params={"return_to": return_to})
        assert answer.status_code == 303, answer.text
        address: str = answer.headers["location"]
        return address

    async def back(self, address: str) -> httpx2.Response:
        """Follow the provider's redirect back to the registry, whatever name that has."""
        parts = urlsplit(address)
        return await self.get(f"{parts.path}?{parts.query}")

    async def login_at(self, provider: Provider, person: Mapping[str, Any] = ALICE) -> httpx2.Response:
        """Log in at a provider, and come back."""
        return await self.back(provider.authorize(await self.begin(), person))

    def cookie(self, name: str = "boltseal-session") -> str:
        """Return the value of a cookie, "" if there is none."""
        return self.http.cookies.get(name) or ""


def form_token(page: httpx2.Response) -> str:
    """Return the token of the first form of a page."""
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


GROUP_GRANTS: list[dict[str, object]] = [
    {"groups": ["dev"], "repository": "shop/**", "actions": ["pull", "push"]},
    {"groups": ["ops"], "repository": "**", "actions": ["pull", "push", "delete", "ledger", "admin"]},
]


def with_provider(data: Path, provider: Provider, **more: object) -> Settings:
    """Return settings of a registry whose people log in at a provider; group `dev` may push to `shop/**`."""
    secret = data.parent / "client.secret"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text(SECRET + "\n")
    grants = [*cast("list[object]", AUTH["grant"]), *GROUP_GRANTS]
    return with_users(data, grant=grants, oidc=provider.settings(str(secret), **more))
