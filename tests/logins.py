"""Users of a registry in tests: passwords, grants, and the headers of a login."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import bcrypt
import httpx2

from boltseal.server.commands.users import put_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata_factory import prepare_metadata
from tests.serving import Serving
from tests.storage_choice import with_storage

PASSWORDS = {"ci": "pw-ci", "boss": "pw-boss", "other": "pw-other"}
AUTH: dict[str, object] = {
    "anonymous_pull": ["public/**"],
    "grant": [
        {"users": ["ci"], "repository": "shop/**", "actions": ["pull", "push"]},
        {"users": ["boss"], "repository": "shop/**", "actions": ["pull", "push", "delete"]},
        {"users": ["boss"], "repository": "public/**", "actions": ["pull", "push"]},
        {"users": ["other"], "repository": "other/**", "actions": ["pull", "push", "delete"]},
    ],
}


def with_users(data: Path, **auth: object) -> Settings:
    """Settings of a registry with these users and grants, whose passwords cost little to check. `auth`: other `[auth]` settings."""
    settings = with_storage(Settings.model_validate({"server": {"data": data}, "auth": {**AUTH, **auth}}))
    prepare_metadata(data, settings.storage)
    for name, word in PASSWORDS.items():
        put_user(settings, name, bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)))
    return settings


def login(name: str, password: str | None = None) -> httpx2.BasicAuth:
    """Return the credentials of a user; `password`: a wrong one."""
    return httpx2.BasicAuth(name, PASSWORDS[name] if password is None else password)


async def token(registry: Serving, name: str | None, *scopes: str) -> str:
    """Request a token for scopes such as `repository:shop/app:pull`; without a name, as anonymous."""
    auth = None if name is None else login(name)
    answer = await registry.client.get("/token", params={"scope": list(scopes)}, auth=auth)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["token"]
    return found


def bearer(token: str) -> dict[str, str]:
    """Return the headers of a request with a token."""
    return {"authorization": f"Bearer {token}"}


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def as_user(user: str) -> dict[str, str]:
    """Return the headers of a request by a user whose password is `pw-` and the name."""
    return {"authorization": "Basic " + base64.b64encode(f"{user}:pw-{user}".encode()).decode()}
