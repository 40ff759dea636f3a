"""An operator ends the session of a stolen ID token: no server accepts it, in any form, from the answer on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.admin_requests import as_user, items_of, settings_with_users
from tests.cli import program
from tests.fakes.issuer import Issuer, running_issuer
from tests.images import image, push
from tests.serving import Serving, serving_as

IMAGE = image("one")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
async def servers(data: Path, issuer: Issuer) -> AsyncIterator[tuple[Serving, Serving]]:
    """Two servers of one registry that has acme/shop."""
    settings = settings_with_users(data, issuers=[issuer.table()])
    async with serving_as(settings) as one, serving_as(settings) as two:
        one.client.auth = as_user("boss")
        await push(one.client, "acme/shop", "1.0", IMAGE)
        one.client.auth = httpx2.Auth()
        yield one, two


async def logged_in(server: Serving, token: str) -> dict[str, str]:
    """Log in as docker does; return the bearer token and the refresh token."""
    asked = {"service": "boltseal", "scope": "repository:acme/shop:pull,push", "offline_token": "true"}
    answer = await server.client.get("/token", params=asked, auth=httpx2.BasicAuth("oidc", token))
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


async def statuses(server: Serving, token: str, login: dict[str, str]) -> list[int]:
    """Return what the ID token, the bearer token and the refresh token get now."""
    client = server.client
    bearer = {"authorization": f"Bearer {login['token']}"}
    form = {"grant_type": "refresh_token", "service": "boltseal", "refresh_token": login["refresh_token"]}
    return [
        (await client.get("/v2/acme/shop/tags/list", auth=httpx2.BasicAuth("oidc", token))).status_code,
        (await client.get("/v2/acme/shop/tags/list", headers=bearer, auth=httpx2.Auth())).status_code,
        (await client.post("/token", data=form, auth=httpx2.Auth())).status_code,
    ]


async def revoke(server: Serving, user: str, **query: Any) -> httpx2.Response:
    return await server.client.delete("/api/v1/sessions", params=query, auth=as_user(user))


async def test_a_revoked_session_is_refused_by_every_server_at_once(
    servers: tuple[Serving, Serving], issuer: Issuer
) -> None:
    """ID token, bearer token and refresh token are refused although both servers had just verified them; others go on."""
    stolen, other = issuer.token(), issuer.token(run_id="9")
    one, two = servers
    login, others_login = await logged_in(one, stolen), await logged_in(two, other)
    before = [await statuses(each, stolen, login) for each in servers]
    sessions = await items_of(two.client, "sessions", "boss", limit=1)
    (id_,) = [each["id"] for each in sessions if each["pipeline"]["run"] == "8213"]
    planned = await revoke(one, "boss", id=id_, dry_run="true")
    still = await statuses(two, stolen, login)
    revoked = await revoke(one, "boss", id=id_)
    after = [await statuses(each, stolen, login) for each in servers]
    others = [await statuses(each, other, others_login) for each in servers]
    again = await revoke(two, "boss", id=id_)
    audit = [each for each in await items_of(one.client, "audit", "boss") if each["action"] == "session.revoked"]

    assert before == [[200, 200, 200]] * 2
    assert (planned.status_code, planned.json()["session"]["revoked"], still) == (200, None, [200, 200, 200])
    assert revoked.status_code == 200
    assert after == [[401, 401, 401]] * 2
    assert others == [[200, 200, 200]] * 2
    assert again.json()["session"]["revoked"] == revoked.json()["session"]["revoked"]
    assert [(each["actor"], each["subject"]) for each in audit] == [
        ("boss", "oidc:ci:repo:acme/shop:ref:refs/tags/v1.4.2")
    ]
    assert id_[:12] in audit[0]["detail"]


async def test_only_operators_see_and_revoke_sessions(servers: tuple[Serving, Serving], issuer: Issuer) -> None:
    """Administrators of some repositories, pipelines and anonymous clients get a refusal, and the session goes on."""
    token = issuer.token()
    login = await logged_in(servers[0], token)
    client = servers[0].client
    (session,) = await items_of(client, "sessions", "boss")
    refused = [(await revoke(servers[0], user, id=session["id"])).status_code for user in ("lead", "ci", "nobody")]
    listed = [
        (await client.get("/api/v1/sessions", auth=auth)).status_code
        for auth in (as_user("lead"), httpx2.BasicAuth("oidc", token), httpx2.Auth())
    ]

    assert refused == [403, 403, 403]
    assert listed == [403, 403, 401]
    assert await statuses(servers[0], token, login) == [200, 200, 200]


async def test_the_commands_list_and_revoke_on_the_data_folder_of_a_running_server(
    servers: tuple[Serving, Serving], issuer: Issuer, tmp_path: Path
) -> None:
    """`admin session ls` shows pipeline and run; after `admin session revoke` the running servers refuse the session."""
    token = issuer.token()
    login = await logged_in(servers[0], token)
    before = await statuses(servers[1], token, login)
    config = tmp_path / "boltseal.toml"
    config.write_text(issuer.toml())
    on_data = ("--config", config, "--data", servers[0].data)
    listed = program.call("admin", "session", "ls", *on_data, "--json")
    (row,) = listed.json["results"]
    shown = program.call("admin", "session", "ls", *on_data)
    revoked = program.call("admin", "session", "revoke", row["ref"], *on_data, "--json")
    unknown = program.call("admin", "session", "revoke", "a" * 64, *on_data)
    after = [await statuses(each, token, login) for each in servers]

    assert before == [200, 200, 200]
    assert (row["status"], row["by"]) == ("open", "oidc:ci:repo:acme/shop:ref:refs/tags/v1.4.2")
    assert (row["pipeline"]["run"], row["ref"] in shown.out) == ("8213", True)
    assert (revoked.code, revoked.json["results"][0]["status"]) == (0, "revoked")
    assert unknown.code != 0
    assert "there is no session" in unknown.err
    assert after == [[401, 401, 401]] * 2
