"""A registry with an operator, an administrator of some repositories and a user without rights, for tests of the admin API."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import httpx2

from boltseal.server.commands.users import put_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata_factory import prepare_metadata
from tests.images import image, push
from tests.polling import until_answer
from tests.servers import Server
from tests.serving import Serving, serving_as
from tests.storage_choice import with_storage

EVERYTHING = ["pull", "push", "delete", "admin"]
GRANTS: list[dict[str, object]] = [
    {"users": ["boss"], "repository": "**", "actions": [*EVERYTHING, "report"]},
    {"users": ["lead"], "repository": "shop/**", "actions": EVERYTHING},
    {"users": ["ci"], "repository": "shop/**", "actions": ["pull", "push"]},
    {"users": ["blind"], "repository": "shop/**", "actions": ["admin"]},
    {"users": ["other"], "repository": "other/**", "actions": EVERYTHING},
]
USERS = ("boss", "lead", "ci", "blind", "other", "nobody")
ONE, TWO, SECRET = image("one"), image("two"), image("secret")


def as_user(name: str) -> httpx2.BasicAuth:
    """Return the login of a user."""
    return httpx2.BasicAuth(name, f"pw-{name}")


def settings_with_users(data: Path, **tables: object) -> Settings:
    """Return settings of a registry with these users and grants. `tables`: other tables of the configuration; `issuers`: of pipelines."""
    issuers = tables.pop("issuers", [])
    auth = {"grant": GRANTS, "issuer": issuers}
    settings = with_storage(Settings.model_validate({"server": {"data": data}, "auth": auth, **tables}))
    prepare_metadata(data, settings.storage)
    for name in USERS:
        put_user(settings, name, bcrypt.hashpw(f"pw-{name}".encode(), bcrypt.gensalt(4)))
    return settings


@asynccontextmanager
async def filled(data: Path, **tables: object) -> AsyncIterator[Serving]:
    """Run a registry with shop/app (1.4.2 sealed, latest moved once) and other/private, which share an image."""
    async with serving_as(settings_with_users(data, **tables)) as registry:
        client = registry.client
        client.auth = as_user("boss")
        await push(client, "shop/app", "1.4.2", ONE)
        await push(client, "shop/app", "latest", ONE)
        await push(client, "shop/app", "latest", TWO)
        await push(client, "other/private", "1.0", ONE)
        await push(client, "other/private", "2.0", SECRET)
        client.auth = httpx2.Auth()
        await until_signed(client)
        yield registry


async def until_signed(client: httpx2.AsyncClient) -> None:
    """Wait until the signed ledger has all entries."""

    async def signed() -> bool:
        answer = await get(client, "ledger", "boss")
        return bool(answer.status_code == 200 and all(log["signed"] == log["size"] for log in answer.json()["items"]))

    await until_answer(signed, "the ledger is signed")


async def get(client: httpx2.AsyncClient, name: str, user: str | None = None, /, **query: Any) -> httpx2.Response:
    """Send a read of the admin API."""
    auth = httpx2.Auth() if user is None else as_user(user)
    return await client.get(f"/api/v1/{name}", params=query, auth=auth)


async def post(
    client: httpx2.AsyncClient, name: str, user: str | None, /, *, if_match: str | None = None, **fields: Any
) -> httpx2.Response:
    """Send a change to the admin API."""
    auth = httpx2.Auth() if user is None else as_user(user)
    headers = {} if if_match is None else {"if-match": if_match}
    return await client.post(f"/api/v1/{name}", json=fields, headers=headers, auth=auth)


async def items_of(client: httpx2.AsyncClient, name: str, user: str, **query: Any) -> list[dict[str, Any]]:
    """Follow the pages of a list by their Link headers, and return all items."""
    answer = await get(client, name, user, **query)
    found: list[dict[str, Any]] = []
    while True:
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        link = answer.headers.get("link")
        assert (link is None) == (answer.json().get("next") is None)
        if link is None:
            return found
        answer = await client.get(link.partition("<")[2].partition(">")[0], auth=as_user(user))


def login_of(server: Server, folder: Path, user: str) -> tuple[str, str]:
    """Write a file with the login of a user, and return the option of a command that names it."""
    file = folder / f"{user}.json"
    basic = base64.b64encode(f"{user}:pw-{user}".encode()).decode()
    file.write_text(json.dumps({"auths": {server.address: {"auth": basic}}}))
    return ("--registry-config", str(file))
