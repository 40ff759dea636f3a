"""A registry with an operator and a user who may push, for commands with `--server`."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2

from tests import servers
from tests.admin_requests import EVERYTHING, ONE, TWO, as_user, login_of
from tests.images import push

CONFIG = f"""
[[auth.grant]]
users = ["boss"]
actions = {json.dumps(EVERYTHING)}
[[auth.grant]]
users = ["ci"]
actions = ["pull", "push"]
"""


async def fill(server: servers.Server) -> None:
    """Push the same images to shop/a and shop/b: 1.4.2 sealed, latest moved once."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, auth=as_user("boss")) as client:
        for repository in ("shop/a", "shop/b"):
            for tag, image in (("1.4.2", ONE), ("latest", TWO), ("latest", ONE)):
                assert (await push(client, repository, tag, image)).status_code == 201


def logins(server: servers.Server, folder: Path, user: str) -> Path:
    """Write a file with the login of a user."""
    _, file = login_of(server, folder, user)
    return Path(file)
