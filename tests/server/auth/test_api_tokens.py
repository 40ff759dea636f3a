"""API tokens: their text, their last use, their limits, the audit log, and the writes that fail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from boltseal.errors import Unavailable
from boltseal.server.app import Application
from boltseal.server.auth.api_token_text import TokenRefused, id_of, looks_like_token, make_token
from boltseal.server.auth.api_tokens import EXPIRED_KEPT_US, MAX_PER_OWNER, ApiTokens
from boltseal.server.auth.logins import hash_password
from boltseal.server.commands.users import remove_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.store_factory import open_metadata
from tests.admin_requests import as_user, get, items_of
from tests.api_tokens import ROBOT, create, made, revoke, settings_with_tokens, with_token
from tests.api_tokens import id_of as id_in
from tests.images import image, push
from tests.logins import bearer, claims
from tests.polling import until_answer
from tests.serving import FIRST_START_US, Clock, Serving, serving_as

IMAGE = image("one")
PULLED = "/v2/shop/app/manifests/1.4.2"


@pytest.fixture
def settings(data: Path) -> Settings:
    return settings_with_tokens(data, max_token_life="100d")  # noqa: S106 - a duration


@pytest.fixture
def clock() -> Clock:
    return Clock(FIRST_START_US + 1_000_000)


@pytest.fixture
async def shop(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    async with serving_as(settings, clock=clock) as registry:
        yield registry


def tokens_of(registry: Serving) -> ApiTokens:
    """Return the API tokens of a running application."""
    found = cast("Application", registry.app)._api_tokens
    assert found is not None
    return found


def test_each_token_is_another_one_of_the_same_form() -> None:
    """Tokens differ, have 256 random bits, and a form that a scanner finds."""
    found = [make_token() for _ in range(200)]

    assert len({each.text for each in found}) == len({each.text[19:62] for each in found}) == 200
    assert all(re.fullmatch(r"boltseal_[a-z2-7]{10}[0-9A-Za-z]{49}", each.text) for each in found)
    assert all(id_of(each.text) == each.id and looks_like_token(each.text) for each in found)


def test_every_changed_character_changes_the_checksum() -> None:
    """A token with one wrong character is refused before anything is looked up."""
    text = make_token().text
    for at in range(len("boltseal_"), len(text)):
        changed = text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]
        with pytest.raises(TokenRefused):
            id_of(changed)


@pytest.mark.parametrize("text", ["boltseal_", "boltseal_x", "x" * 68, "boltseal_" + "é" * 59])
def test_another_text_is_no_token(text: str) -> None:
    """What has another form is a password."""
    assert not looks_like_token(text)


def test_no_password_looks_like_a_token() -> None:
    """A password of the form of a token could never be used, so it is refused when it is set."""
    with pytest.raises(ValueError, match="may not look like an API token"):
        hash_password(make_token().text)


async def test_a_push_with_a_token_is_recorded_with_its_id(shop: Serving) -> None:
    """The ledger's actor of a push is the owner with the token's ID, by Basic and by a bearer token; quotas count the owner."""
    text = await made(shop.client)
    shop.client.auth = with_token(text)
    await push(shop.client, "shop/app", "1.4.2", IMAGE)
    shop.client.auth = httpx2.Auth()
    answer = await shop.client.get("/token?scope=repository:shop/app:pull,push", auth=with_token(text))
    token = answer.json()["token"]
    shop.client.headers.update(bearer(token))
    await push(shop.client, "shop/app", "1.4.3", IMAGE)
    del shop.client.headers["authorization"]

    items = await items_of(shop.client, "tags", "boss", repository="shop/app")

    assert len(items) == 2
    assert {item["changed_by"] for item in items} == {f"{ROBOT} (token {id_in(text)})"}
    assert claims(token)["sub"] == ROBOT


async def test_a_use_is_written_once_an_hour(shop: Serving, clock: Clock, settings: Settings) -> None:
    """However often a token is used, one time an hour is written for it, outside of its requests."""
    text = await made(shop.client)
    tokens = tokens_of(shop)
    never = (await items_of(shop.client, "tokens", "boss", all="true"))[0]["used"]
    for _ in range(3):
        await shop.client.get("/v2/", auth=with_token(text))
        clock.advance(seconds=11)
    waiting = dict(tokens._unwritten)
    await tokens.write_uses()
    first = (await items_of(shop.client, "tokens", "boss", all="true"))[0]["used"]
    clock.advance(hours=1)
    await shop.client.get("/v2/", auth=with_token(text))
    await tokens.write_uses()
    later = (await items_of(shop.client, "tokens", "boss", all="true"))[0]["used"]

    assert never is None
    assert len(waiting) == 1
    assert first is not None
    assert later > first


async def test_the_cleanup_removes_tokens_that_expired_long_ago(settings: Settings, clock: Clock) -> None:
    """An expired token is listed for 30 days, with the time of its end; then the cleanup removes it."""
    async with serving_as(settings, clock=clock) as registry:
        await made(registry.client, life="2d")
    clock.now_us += 3 * 86_400_000_000
    async with serving_as(settings, clock=clock) as registry:
        listed = await items_of(registry.client, "tokens", "boss", all="true")
    clock.now_us += EXPIRED_KEPT_US
    async with serving_as(settings, clock=clock, janitor_every_s=0.05) as registry:

        async def gone() -> bool:
            return not await items_of(registry.client, "tokens", "boss", all="true")

        await until_answer(gone, "the expired token is removed")

    assert [item["ends"] for item in listed] == [None]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"life": "101d"}, "expected at most 100d"),
        ({"life": "0s"}, "more than nothing"),
        ({"life": "soon"}, "a whole number and a unit"),
        ({"description": "two\nlines"}, "one line"),
    ],
)
async def test_an_invalid_token_is_not_created(shop: Serving, fields: dict[str, Any], words: str) -> None:
    """The refusal says what is wrong; nothing was created or recorded."""
    answer = await create(shop.client, **fields)

    assert answer.status_code == 400
    assert words in answer.text
    assert await items_of(shop.client, "tokens", "boss", all="true") == []
    assert all(each["action"] != "token.created" for each in await items_of(shop.client, "audit", "boss"))


async def test_an_owner_has_a_bounded_number_of_tokens(shop: Serving) -> None:
    """After a hundred tokens the next one is refused; another owner still gets one."""
    for _ in range(MAX_PER_OWNER):
        await made(shop.client)
    refused = await create(shop.client)
    other = await create(shop.client, "ci", owner="")
    pages = await items_of(shop.client, "tokens", "boss", all="true", limit=30)

    assert (refused.status_code, other.status_code) == (400, 200)
    assert "too many API tokens" in refused.text
    assert len(pages) == MAX_PER_OWNER + 1
    assert [item["id"] for item in pages] == sorted(item["id"] for item in pages)


async def test_the_audit_log_has_each_change_and_no_secret(shop: Serving, settings: Settings) -> None:
    """Creation, revocation and removal are recorded with who did it, newest first, without the token."""
    text = await made(shop.client, description="deploys")
    await revoke(shop.client, id=id_in(text))
    await asyncio.to_thread(remove_user, settings, "nobody")
    records = await items_of(shop.client, "audit", "boss", limit=2)

    assert [(each["action"], each["subject"]) for each in records[:3]] == [
        ("user.removed", "nobody"),
        ("token.revoked", f"{ROBOT} (token {id_in(text)})"),
        ("token.created", f"{ROBOT} (token {id_in(text)})"),
    ]
    assert [each["actor"] for each in records[1:3]] == ["boss", "boss"]
    assert records[2]["detail"].startswith("pull, push in shop/**; until ")
    assert text[19:60] not in str(records)
    assert [each["number"] for each in records] == list(range(len(records)))[::-1]


async def test_a_dry_run_creates_no_token_and_is_refused_as_the_creation_is(shop: Serving) -> None:
    """A dry run returns owner, scope and end without a token, and has the refusals of the creation."""
    planned = await create(shop.client, life="10d", description="deploys", dry_run=True)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("boss", {"life": "101d"}),
        ("boss", {"owner": "no-such"}),
        ("ci", {"owner": "lead"}),
    ]
    refused = [
        (await create(shop.client, by, dry_run=dry_run, **fields)).status_code
        for by, fields in wrong
        for dry_run in (True, False)
    ]
    document = planned.json()

    assert (document["text"], document["record"], document["dry_run"]) == ("", None, True)
    assert [document["token"][name] for name in ("id", "owner", "actions")] == ["", ROBOT, ["pull", "push"]]
    assert refused == [400, 400, 404, 404, 403, 403]
    assert await items_of(shop.client, "tokens", "boss", all="true") == []
    assert all(each["action"] != "token.created" for each in await items_of(shop.client, "audit", "boss"))


async def test_a_repeated_request_creates_no_second_token(shop: Serving, clock: Clock) -> None:
    """A text for `once` works once for its user, also after the token was revoked; other users are not affected."""
    first = await create(shop.client, once="a request")
    await revoke(shop.client, id=first.json()["token"]["id"])
    again = await create(shop.client, once="a request")
    planned = await create(shop.client, once="a request", dry_run=True)
    other = await create(shop.client, "ci", owner="", once="a request")
    clock.advance(hours=25)
    later = await create(shop.client, once="a request")

    assert [each.status_code for each in (first, again, planned, other, later)] == [200, 412, 200, 200, 200]
    assert "created no second token" in again.text
    assert len(await items_of(shop.client, "tokens", "boss", all="true")) == 2


async def test_two_repeated_requests_at_once_create_one_token(shop: Serving) -> None:
    """Of several requests with one `once` that are sent together one succeeds."""
    answers = await asyncio.gather(*(create(shop.client, once="a request") for _ in range(5)))

    assert sorted(each.status_code for each in answers) == [200, 412, 412, 412, 412]
    assert len(await items_of(shop.client, "tokens", "boss", all="true")) == 1


async def test_answers_name_the_records_of_the_audit_log(shop: Serving) -> None:
    """The answer of a creation and of a revocation has the numbers of their records, which have reason and description."""
    first, second = [(await create(shop.client, description=text)).json() for text in ("deploys", "")]
    ended = (await revoke(shop.client, user=ROBOT, reason="leaked")).json()
    planned = (await revoke(shop.client, user=ROBOT, dry_run=True)).json()
    records = {each["number"]: each for each in await items_of(shop.client, "audit", "boss")}

    assert records[first["record"]]["detail"].endswith("; for: deploys")
    assert "for: " not in records[second["record"]]["detail"]
    assert [records[number]["subject"] for number in ended["records"]] == [
        f"{ROBOT} (token {each['id']})" for each in ended["items"]
    ]
    assert {records[number]["detail"] for number in ended["records"]} == {"leaked"}
    assert planned["records"] == []


async def test_me_shows_the_token_of_a_request(shop: Serving) -> None:
    """A program learns whose token it has, what it allows and until when."""
    text = await made(shop.client, life="10d")
    answer = (await shop.client.get("/api/v1/me", auth=with_token(text))).json()

    assert (answer["user"], answer["operator"]) == (ROBOT, False)
    assert answer["token"]["id"] == id_in(text)
    assert answer["token"]["actions"] == ["pull", "push"]
    assert answer["token"]["ends"] == answer["token"]["expires"]


class LostAnswer:
    """Makes the next write of a database fail: before it, or after it was made (its answer is lost)."""

    def __init__(self, database: Metadata, *, made: bool) -> None:
        self._database, self._write, self._made = database, database.write, made
        database.write = self._fail  # type: ignore[assignment,method-assign]  # until the next write

    async def _fail(self, *args: object, **named: object) -> object:
        self._database.write = self._write  # type: ignore[method-assign]
        if self._made:
            await self._write(*args, **named)  # type: ignore[arg-type]
        raise Unavailable("the connection broke")


@pytest.mark.parametrize("happened", [False, True], ids=["not done", "done, answer lost"])
async def test_a_creation_that_fails_is_repeated(shop: Serving, happened: bool) -> None:
    """A failed creation leaves nothing, or a token whose text is lost, which `ls` shows; another try gives a working one."""
    await get(shop.client, "me", "boss")  # the time of this login is written before
    LostAnswer(tokens_of(shop)._database, made=happened)
    failed = await create(shop.client)
    text = await made(shop.client)

    assert failed.status_code == 503
    assert len(await items_of(shop.client, "tokens", "boss", all="true")) == 1 + happened
    assert (await shop.client.get("/v2/", auth=with_token(text))).status_code == 200


@pytest.mark.parametrize("happened", [False, True], ids=["not done", "done, answer lost"])
async def test_a_revocation_that_fails_is_repeated(shop: Serving, happened: bool) -> None:
    """After a failed revocation the token works or does not; repeated, it does not."""
    text = await made(shop.client)
    LostAnswer(tokens_of(shop)._database, made=happened)
    failed = await revoke(shop.client, user=ROBOT)
    between = (await shop.client.get("/v2/", auth=with_token(text))).status_code
    repeated = await revoke(shop.client, user=ROBOT)

    assert (failed.status_code, repeated.status_code) == (503, 200)
    assert between == (401 if happened else 200)
    assert (await shop.client.get("/v2/", auth=with_token(text))).status_code == 401


async def test_a_login_whose_time_is_not_written_is_right_all_the_same(shop: Serving) -> None:
    """The time of a login is written again at the next one."""
    text = await made(shop.client, owner="ci")
    LostAnswer(tokens_of(shop)._database, made=False)
    first = await shop.client.get("/v2/", auth=as_user("ci"))
    refused = await shop.client.get("/v2/", auth=with_token(text, "ci"))
    await shop.client.get("/v2/", auth=as_user("ci"))
    accepted = await shop.client.get("/v2/", auth=with_token(text, "ci"))

    assert first.status_code == 200
    assert refused.status_code == 401
    assert "has logged in once" in refused.text
    assert accepted.status_code == 200


async def test_without_the_key_no_token_is_accepted(settings: Settings) -> None:
    """A server without users.key can't check tokens: it says so with 503, and accepts none."""
    async with serving_as(settings) as registry:
        text = await made(registry.client)
    for name in ("boss", "lead", "ci", "blind", "other", "nobody"):
        remove_user(settings, name)
    (settings.keys / "users.key").unlink()
    async with serving_as(settings) as registry:
        answer = await registry.client.get("/v2/", auth=with_token(text))
    with open_metadata(settings) as database:
        rows = await database.lookups.tokens.api_tokens()

    assert answer.status_code == 503
    assert [row.id for row in rows] == [id_in(text)]
