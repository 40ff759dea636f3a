"""Attacks with API tokens: expired, revoked, of others, of removed users, beyond their scope, forged in the database, in logs."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import bcrypt
import httpx2
import pytest

from boltseal.errors import NotFound
from boltseal.policy.token_scope import DEFAULT_TERMS, MAX_GLOB_CHARACTERS, parse_scope
from boltseal.server.api.access_log import AccessLogLine
from boltseal.server.app import Application, create_app
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.api_token_text import make_token
from boltseal.server.auth.api_tokens import TokenRequest
from boltseal.server.commands.users import put_user, remove_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.postgres import PostgresDriver
from tests.admin_requests import as_user, get
from tests.api_tokens import (
    ROBOT,
    TOKENS,
    WITH_ROBOT,
    create,
    id_of,
    made,
    revoke,
    settings_with_tokens,
    with_token,
)
from tests.asgi import running
from tests.images import image, push
from tests.logins import bearer
from tests.serving import FIRST_START_US, ORIGIN, Clock, Serving, serving_as

IMAGE = image("one")
PULLED = "/v2/shop/app/manifests/1.4.2"
UPLOAD = "/v2/shop/app/blobs/uploads/"


@pytest.fixture
def settings(data: Path) -> Settings:
    return settings_with_tokens(data)


@pytest.fixture
def clock() -> Clock:
    return Clock(FIRST_START_US + 1_000_000)


@pytest.fixture
async def shop(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    """A registry with shop/app:1.4.2 and other/private:1.0."""
    async with serving_as(settings, clock=clock) as registry:
        await filled(registry)
        yield registry


async def filled(registry: Serving) -> None:
    client = registry.client
    client.auth = as_user("boss")
    await push(client, "shop/app", "1.4.2", IMAGE)
    await push(client, "other/private", "1.0", IMAGE)
    client.auth = httpx2.Auth()


async def status(client: httpx2.AsyncClient, auth: httpx2.Auth, url: str = PULLED, method: str = "GET") -> int:
    return (await client.request(method, url, auth=auth)).status_code


async def bearer_token(client: httpx2.AsyncClient, auth: httpx2.Auth, *scopes: str) -> dict[str, str]:
    """Return the headers with a bearer token of the token service."""
    answer = await client.get("/token", params={"scope": list(scopes)}, auth=auth)
    assert answer.status_code == 200, answer.text
    return bearer(answer.json()["token"])


async def test_a_revoked_token_is_refused_at_the_next_request(shop: Serving) -> None:
    """After the answer to the revocation neither the token nor a bearer token that was requested with it is accepted."""
    client = shop.client
    text = await made(client)
    headers = await bearer_token(client, with_token(text), "repository:shop/app:pull,push")
    before = [await status(client, with_token(text)), (await client.get(PULLED, headers=headers)).status_code]
    revoked = await revoke(client, id=id_of(text))
    after = [
        await status(client, with_token(text)),
        (await client.get(PULLED, headers=headers)).status_code,
        (await client.post(UPLOAD, headers=headers)).status_code,
        (await client.get(PULLED, headers={"authorization": f"Bearer {text}"})).status_code,
        (await client.get("/token", auth=with_token(text))).status_code,
    ]

    assert before == [200, 200]
    assert revoked.status_code == 200
    assert after == [401] * 5


async def test_a_dry_run_revokes_nothing(shop: Serving) -> None:
    """A dry run returns the token that would be revoked, which is still accepted."""
    text = await made(shop.client)
    planned = await revoke(shop.client, id=id_of(text), dry_run="true")

    assert [item["id"] for item in planned.json()["items"]] == [id_of(text)]
    assert planned.json()["dry_run"] is True
    assert await status(shop.client, with_token(text)) == 200


async def test_an_expired_token_is_refused(shop: Serving, clock: Clock) -> None:
    """A token is accepted until its end and not after it, although the process remembers that it was right."""
    text = await made(shop.client, life="2d")
    before = await status(shop.client, with_token(text))
    clock.advance(days=2)
    after = await shop.client.get(PULLED, auth=with_token(text))

    assert before == 200
    assert after.status_code == 401
    assert "expired" in after.text


async def test_a_token_of_another_owner_is_refused(shop: Serving) -> None:
    """The user name that is sent must be the owner's; the refusal does not repeat it."""
    text = await made(shop.client)
    answers = [await shop.client.get(PULLED, auth=with_token(text, user)) for user in ("boss", "", text)]

    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert all(text not in answer.text and text[20:40] not in answer.text for answer in answers)


@pytest.mark.parametrize("glob", ["shop/app", "shop/*"])
async def test_a_token_does_not_leave_its_repositories(shop: Serving, glob: str) -> None:
    """What the owner may do elsewhere the token may not, nor with a bearer token, nor by a mount, nor in lists."""
    client = shop.client
    auth = with_token(await made(client, repositories=(glob,), actions=("pull", "push")))
    headers = await bearer_token(client, auth, "repository:other/private:pull", "registry:catalog:*")
    outside = [
        await status(client, auth, "/v2/other/private/manifests/1.0"),
        await status(client, auth, "/v2/shop/app/deeper/blobs/uploads/", "POST"),
        (await client.get("/v2/other/private/manifests/1.0", headers=headers)).status_code,
    ]
    catalog = await client.get("/v2/_catalog", auth=auth)
    query = f"mount={IMAGE.config.digest}&from=other/private"
    mounted = await client.post(f"/v2/shop/other/blobs/uploads/?{query}", auth=auth)

    assert await status(client, auth) == 200
    assert outside == [403, 403, 403]
    assert catalog.json()["repositories"] == ["shop/app"]
    assert mounted.status_code != 201


async def test_a_token_does_not_exceed_its_actions(shop: Serving) -> None:
    """A token that may only pull neither pushes nor deletes, though its owner may; the answer is 403 with the reason."""
    auth = with_token(await made(shop.client, actions=("pull",)))
    pushed = await shop.client.post(UPLOAD, auth=auth)
    headers = await bearer_token(shop.client, auth, "repository:shop/app:pull,push,delete")
    by_bearer = await shop.client.post(UPLOAD, headers=headers)
    deleted = await shop.client.delete(PULLED, auth=auth)

    assert (pushed.status_code, by_bearer.status_code, deleted.status_code) == (403, 403, 403)
    assert "does not allow to push" in pushed.text


async def test_a_token_never_has_more_than_its_owner(shop: Serving) -> None:
    """A scope of everything gives a service account and a user nothing that the grants do not."""
    everything = ("pull", "push", "delete", "ledger", "admin", "tokens")
    text = await made(shop.client, repositories=("**",), actions=everything)
    auth = with_token(text)
    answers = [
        await shop.client.post("/v2/other/private/blobs/uploads/", auth=auth),
        await shop.client.get("/api/v1/users", auth=auth),
        await shop.client.get(f"{TOKENS}?all=true", auth=auth),
        await shop.client.get("/ledger/entries/0", auth=auth),
        await create(shop.client, auth, owner="boss"),
    ]

    assert [answer.status_code for answer in answers if answer.status_code != 404] == [
        403 for answer in answers if answer.status_code != 404
    ]


async def test_a_token_of_an_operator_is_one_only_if_its_scope_says_so(shop: Serving) -> None:
    """`admin` in every repository must be in the scope too, which the refusal says; `me` shows the same."""
    narrow = httpx2.BasicAuth("boss", await made(shop.client, owner="boss", actions=("pull", "admin")))
    wide = httpx2.BasicAuth("boss", await made(shop.client, owner="boss", repositories=("**",), actions=("admin",)))
    answers = [await shop.client.get("/api/v1/users", auth=auth) for auth in (narrow, wide)]
    operators = [(await shop.client.get("/api/v1/me", auth=auth)).json()["operator"] for auth in (narrow, wide)]

    assert [answer.status_code for answer in answers] == [403, 200]
    assert "of boss does not allow `admin` in all repositories" in answers[0].text
    assert operators == [False, True]


async def test_a_token_reads_the_ledger_only_if_its_scope_says_so(data: Path) -> None:
    """The refusal names the scope, not a grant that the owner has."""
    reader: dict[str, object] = {"users": ["boss"], "repository": "**", "actions": ["ledger"]}
    async with serving_as(settings_with_tokens(data, grants=[*WITH_ROBOT, reader])) as registry:
        answers = [
            await registry.client.get(
                "/ledger/tile/entries/000.p/1",
                auth=httpx2.BasicAuth(
                    "boss", await made(registry.client, owner="boss", repositories=("**",), actions=(action,))
                ),
            )
            for action in ("pull", "ledger")
        ]

    assert [answer.status_code for answer in answers] == [403, 200]
    assert "of boss does not allow `ledger` in all repositories" in answers[0].text


async def test_a_token_creates_no_token_unless_its_scope_says_so(shop: Serving) -> None:
    """Without `tokens` a token neither creates, lists nor revokes one."""
    text = await made(shop.client, actions=("pull", "push"))
    answers = [
        await create(shop.client, with_token(text), owner=""),
        await shop.client.get(TOKENS, auth=with_token(text)),
        await revoke(shop.client, with_token(text), id=id_of(text)),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]


@pytest.mark.parametrize(
    "wanted",
    [
        {"repositories": ("shop/**", "**")},
        {"repositories": ("shop/a*",)},
        {"actions": ("pull", "push")},
        {"life": "90d"},
        {"owner": "boss"},
    ],
    ids=["all repositories", "wider glob", "another action", "longer", "another owner"],
)
async def test_a_token_creates_no_token_that_allows_more(shop: Serving, wanted: dict[str, Any]) -> None:
    """A created token is within the scope and the life of the one that creates it, and of the same owner."""
    parent = with_token(
        await made(
            shop.client, repositories=("shop/app",), actions=("pull", "tokens"), life="30d", description="parent"
        )
    )
    fields: dict[str, Any] = {"owner": "", "repositories": ("shop/app",), "actions": ("pull",), "life": "7d"}
    right = await create(shop.client, parent, **fields)
    wrong = await create(shop.client, parent, **{**fields, **wanted})

    assert right.status_code == 200
    assert wrong.status_code == 403


async def test_a_token_of_a_removed_user_is_refused(shop: Serving, settings: Settings) -> None:
    """A user's removal removes the tokens: a new user of the same name does not get them back."""
    text = await made(shop.client, "ci", owner="")
    auth = httpx2.BasicAuth("ci", text)
    headers = await bearer_token(shop.client, auth, "repository:shop/app:pull")
    before = await status(shop.client, auth)
    await asyncio.to_thread(remove_user, settings, "ci")
    removed = [await status(shop.client, auth), (await shop.client.get(PULLED, headers=headers)).status_code]
    await asyncio.to_thread(put_user, settings, "ci", bcrypt.hashpw(b"pw-ci", bcrypt.gensalt(4)))
    await shop.client.get(PULLED, auth=as_user("ci"))

    assert before == 200
    assert removed == [401, 401]
    assert await status(shop.client, auth) == 401


async def test_no_token_is_created_for_an_owner_who_is_removed_meanwhile(settings: Settings, clock: Clock) -> None:
    """A token that was requested before its owner's removal, and is written after it, would be that of a later user of the name."""
    async with serving_as(settings, clock=clock) as registry:
        app = cast("Application", registry.app)
        assert app._logins is not None
        assert app._api_tokens is not None
        await registry.client.get(PULLED, auth=as_user("ci"))
        users = app._logins.directory.current()
        await asyncio.to_thread(remove_user, settings, "ci")
        asked = TokenRequest("ci", parse_scope(["**"], ["pull"]))
        with pytest.raises(NotFound):
            await app._api_tokens.create(asked, users, DEFAULT_TERMS, Actor("ci"), in_file=False)


async def test_a_token_shrinks_with_the_grants_of_its_owner(data: Path, settings: Settings) -> None:
    """After a restart with fewer grants the same token has fewer rights."""
    async with serving_as(settings) as registry:
        await filled(registry)
        text = await made(registry.client, actions=("pull", "push"))
        before = await status(registry.client, with_token(text), UPLOAD, "POST")
    fewer = [grant for grant in WITH_ROBOT if grant["users"] != [ROBOT]]
    fewer.append({"users": [ROBOT], "repository": "shop/**", "actions": ["pull"]})
    async with serving_as(settings_with_tokens(data, grants=fewer)) as registry:
        after = [
            await status(registry.client, with_token(text)),
            await status(registry.client, with_token(text), UPLOAD, "POST"),
        ]

    assert before == 202
    assert after == [200, 403]


async def test_a_changed_character_is_refused(shop: Serving) -> None:
    """A mistyped token has a wrong checksum; one with a right checksum and another secret is unknown; neither is a password."""
    text = await made(shop.client)
    mistyped = text[:30] + ("a" if text[30] != "a" else "b") + text[31:]
    forged = make_token().text
    answers = [await shop.client.get(PULLED, auth=with_token(each)) for each in (mistyped, forged)]

    assert [answer.status_code for answer in answers] == [401, 401]
    assert "wrong checksum" in answers[0].text
    assert "not known here" in answers[1].text


async def test_wrong_tokens_neither_run_bcrypt_nor_block_an_address(shop: Serving) -> None:
    """A wrong token costs no bcrypt, and a hundred of them do not keep others behind the same address from logging in."""
    answers = [await status(shop.client, with_token(make_token().text)) for _ in range(100)]

    assert set(answers) == {401}
    assert await status(shop.client, as_user("ci")) == 200


async def test_a_token_as_user_name_is_never_repeated(data: Path, settings: Settings) -> None:
    """A token in the place of the user name, in a query or in a path is in no answer and in no log but as a path."""
    lines: list[AccessLogLine] = []

    def write(written: Sequence[AccessLogLine]) -> None:
        lines.extend(written)

    app = create_app(settings, access_log=write)
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        text = await made(client)
        auths = [httpx2.BasicAuth(text, ""), httpx2.BasicAuth(text, text), httpx2.BasicAuth(text, "x")]
        answers = [await client.get(PULLED, auth=auth) for auth in auths]
        answers += [
            await client.get("/token", params={"account": text}, auth=with_token(text)),
            await client.get(f"{TOKENS}?token={text}", auth=as_user("boss")),
            await client.get(f"{TOKENS}?id={text}", auth=as_user("boss")),
            await client.delete(f"{TOKENS}?id={text}", auth=as_user("boss")),
            await client.post("/token", data={"grant_type": "password", "username": text, "password": text}),
        ]
        secret = text.removeprefix("boltseal_")[10:40]
        listed = await get(client, "tokens", "boss", all="true")
        audited = await get(client, "audit", "boss")

    assert all(400 <= answer.status_code < 500 for answer in answers)
    assert all(secret not in answer.text for answer in (*answers, listed, audited))
    assert all(secret not in str(line) for line in lines)
    assert lines


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scope", '{"repositories":["**"],"actions":["pull","push"]}'),
        ("owner", "boss"),
        ("expires_us", 4_000_000_000_000_000),
        ("kind", "person"),
    ],
)
async def test_a_changed_row_of_the_database_is_not_accepted(settings: Settings, column: str, value: object) -> None:
    """An account that can write only the database gives no token another scope, owner or end."""
    async with serving_as(settings) as registry:
        await filled(registry)
        text = await made(registry.client)
    statement = f"UPDATE api_token SET {column} = ?"  # noqa: S608 - a name of this test
    if settings.storage.database is None:
        with closing(sqlite3.connect(settings.server.data / "boltseal.db")) as connection, connection:
            connection.execute(statement, (value,))
    else:
        driver = PostgresDriver(settings.storage.database)
        with driver.errors_named(), closing(driver.connect()) as session:
            session.begin(write=True)
            session.plain(statement, (value,))
            session.commit()
        driver.close()
    async with serving_as(settings) as registry:
        answers = [await status(registry.client, with_token(text, user)) for user in (ROBOT, "boss")]

    assert answers == [401, 401]


async def test_a_person_must_log_in_now_and_then(shop: Serving, clock: Clock) -> None:
    """A person's token ends 30 days after the last login with the password, warns 7 days before, and works again after the next one."""
    client = shop.client
    person = httpx2.BasicAuth("ci", await made(client, "ci", owner="", life="100d"))
    robot = with_token(await made(client, life="100d"))
    first = await client.get(PULLED, auth=person)
    clock.advance(days=24)
    warned = await client.get(PULLED, auth=person)
    headers = await bearer_token(client, person, "repository:shop/app:pull")
    by_bearer = await client.get(PULLED, headers=headers)
    clock.advance(days=6)
    over = await client.get(PULLED, auth=person)
    of_robot = await client.get(PULLED, auth=robot)
    await client.get(PULLED, auth=as_user("ci"))
    again = await client.get(PULLED, auth=person)

    assert (first.status_code, "warning" in first.headers) == (200, False)
    assert warned.status_code == 200
    assert warned.headers["warning"].startswith('299 - "API token ')
    assert "unless ci logs in" in warned.headers["warning"]
    assert by_bearer.headers["warning"] == warned.headers["warning"]
    assert over.status_code == 401
    assert "does not work until ci logs in again" in over.text
    assert of_robot.status_code == 200
    assert again.status_code == 200


async def test_a_service_account_has_no_password(shop: Serving) -> None:
    """No password logs a service account in, not even an empty one."""
    answers = [await status(shop.client, httpx2.BasicAuth(ROBOT, word)) for word in ("", "x", "robot")]

    assert answers == [401, 401, 401]


async def test_others_tokens_are_neither_listed_nor_revoked(shop: Serving) -> None:
    """A user sees and revokes only the own tokens; a foreign ID and an unknown one get one answer."""
    mine = await made(shop.client, "ci", owner="")
    foreign = await made(shop.client)
    listed = await get(shop.client, "tokens", "ci")
    refused = [
        await get(shop.client, "tokens", "ci", all="true"),
        await shop.client.get(TOKENS, params={"user": ROBOT}, auth=as_user("ci")),
        await create(shop.client, "ci", owner=ROBOT),
        await revoke(shop.client, "ci", user=ROBOT),
        await get(shop.client, "audit", "ci"),
    ]
    taken = await revoke(shop.client, "ci", id=id_of(foreign))
    unknown = await revoke(shop.client, "ci", id="a" * 10)
    anonymous = await get(shop.client, "tokens")

    assert [item["id"] for item in listed.json()["items"]] == [id_of(mine)]
    assert [answer.status_code for answer in refused] == [403] * 5
    assert (taken.status_code, unknown.status_code, anonymous.status_code) == (404, 404, 401)
    assert taken.text.replace(id_of(foreign), "X") == unknown.text.replace("a" * 10, "X")
    assert await status(shop.client, with_token(foreign)) == 200


def costly_globs(name: str, characters: int) -> tuple[str, ...]:
    """Return globs that are expensive to parse, with this many characters in all."""
    return tuple(f"{name}{number:04}{'[!a][!b]' * 31}[!c]" for number in range(characters // 257))


async def test_scopes_of_many_long_globs_do_not_stop_the_server(shop: Serving) -> None:
    """A scope has a bounded size, and a list of tokens parses none: any user may create a hundred tokens and list them."""
    too_large = await create(shop.client, "ci", owner="", repositories=costly_globs("x", 257 * 90))
    for number in range(10):
        await made(shop.client, "ci", owner="", repositories=costly_globs(f"t{number}", MAX_GLOB_CHARACTERS))
    re.purge()
    began_s = time.thread_time()
    parse_scope(costly_globs("other", MAX_GLOB_CHARACTERS), ["pull"])
    parsed_s = time.thread_time()
    listed = await get(shop.client, "tokens", "ci")
    listed_s = time.thread_time()

    assert too_large.status_code == 400
    assert f"at most {MAX_GLOB_CHARACTERS} are allowed" in too_large.text
    assert len(listed.json()["items"]) == 10
    assert listed_s - parsed_s < 3 * (parsed_s - began_s)


async def test_no_push_is_accepted_after_the_revocation_is_answered(shop: Serving) -> None:
    """Of pushes that race with the revocation of their token, none that begins after its answer is accepted."""
    client = shop.client
    text = await made(client, life="30d")
    body = IMAGE.raw
    done, pushing = asyncio.Event(), asyncio.Event()
    late: list[int] = []

    async def pushes(worker: int) -> None:
        for number in range(30):
            begun_after = done.is_set()
            answer = await client.put(
                f"/v2/shop/app/manifests/r{worker}.{number}.0",
                content=body,
                headers={"content-type": IMAGE.media_type},
                auth=with_token(text),
            )
            assert answer.status_code in (201, 401), answer.text
            pushing.set()
            if begun_after:
                late.append(answer.status_code)

    async def revocation() -> None:
        await pushing.wait()
        assert (await revoke(client, id=id_of(text))).status_code == 200
        done.set()

    await asyncio.gather(*(pushes(worker) for worker in range(4)), revocation())
    last = await client.put("/v2/shop/app/manifests/9.0.0", content=body, auth=with_token(text))

    assert set(late) <= {401}
    assert last.status_code == 401
