"""API tokens in tests: a registry with people and a service account, and requests that create, use and revoke tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from boltseal.server.commands.users import add_service
from boltseal.server.settings import Settings
from tests.admin_requests import GRANTS, as_user, settings_with_users

ROBOT = "robot"
WITH_ROBOT: list[dict[str, object]] = [
    *GRANTS,
    {"users": [ROBOT], "repository": "shop/**", "actions": ["pull", "push", "delete"]},
    {"users": [ROBOT], "repository": "other/**", "actions": ["pull"]},
]
TOKENS = "/api/v1/tokens"


def settings_with_tokens(data: Path, *, grants: list[dict[str, object]] = WITH_ROBOT, **auth: object) -> Settings:
    """Return settings of a registry with users, and `robot`, a service account. `auth`: other settings of `[auth]`."""
    settings = settings_with_users(data, auth={"grant": grants, **auth})
    add_service(settings, ROBOT)
    return settings


async def create(
    client: httpx2.AsyncClient,
    by: str | httpx2.Auth = "boss",
    *,
    owner: str = ROBOT,
    repositories: tuple[str, ...] = ("shop/**",),
    actions: tuple[str, ...] = ("pull", "push"),
    **fields: Any,
) -> httpx2.Response:
    """Request a new token. `by`: a user with the password, or another login."""
    auth = as_user(by) if isinstance(by, str) else by
    body = {"owner": owner, "repositories": list(repositories), "actions": list(actions), **fields}
    return await client.post(TOKENS, json=body, auth=auth)


async def made(client: httpx2.AsyncClient, by: str | httpx2.Auth = "boss", **fields: Any) -> str:
    """Create a token and return its text."""
    answer = await create(client, by, **fields)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["text"]
    return text


def id_of(text: str) -> str:
    """Return the ID in the text of a token."""
    return text.removeprefix("boltseal_")[:10]


def with_token(text: str, user: str = ROBOT) -> httpx2.BasicAuth:
    """Return the login of `docker login -u USER` with a token as password."""
    return httpx2.BasicAuth(user, text)


async def revoke(client: httpx2.AsyncClient, by: str | httpx2.Auth = "boss", **query: Any) -> httpx2.Response:
    """Revoke a token (`id`), or all of a `user`."""
    auth = as_user(by) if isinstance(by, str) else by
    return await client.delete(TOKENS, params=query, auth=auth)
