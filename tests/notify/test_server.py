"""Notifications of a running server: refusals, moves, deletes; no push waits for a receiver."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.events import QuotaLow
from boltseal.server.app import Application
from boltseal.server.settings import Settings
from boltseal.server.store_factory import now_us
from tests import servers
from tests.fakes.upstream import FakeUpstream
from tests.images import image, push
from tests.notify.receivers import HANGS, Inbox, answer, inbox
from tests.polling import until, until_answer
from tests.serving import FLOATING, serving_as


def settings(data: Path, box: Inbox, **more: object) -> Settings:
    """Return settings of a server with this receiver, in which tags that are no release are mutable."""
    return Settings.model_validate(
        {
            "server": {"data": data, "public_url": "https://registry.example.com", **more},
            "rule": [{"tag": "1.4.*", "mode": "sealed"}, *FLOATING],
            "notify": [{"url": box.url, "networks": ["127.0.0.0/8"]}],
        }
    )


@pytest.mark.slow
async def test_a_refused_push_a_move_and_a_delete_are_delivered(tmp_path: Path) -> None:
    """tag.refused has the client's message and tag.moved the former digest; each event arrives once."""
    async with inbox() as box, serving_as(settings(tmp_path / "data", box)) as registry:
        client = registry.client
        old, new = image("old"), image("new")
        await push(client, "shop/app", "1.4.2", old)
        refused = await push(client, "shop/app", "1.4.2", new)
        await push(client, "shop/app", "latest", old)
        await push(client, "shop/app", "latest", new)
        await client.delete("/v2/shop/app/manifests/latest")
        await box.until(3)
    fields = {one["type"] + str(one["data"].get("digest") is None): one for one in box.events}

    assert refused.status_code == 409
    assert len(box.bodies) == 3
    refusal = fields["boltseal.tag.refused.v1False"]
    assert refusal["subject"] == "registry.example.com/shop/app:1.4.2"
    assert refusal["source"] == "https://registry.example.com"
    assert refusal["data"]["reason"] == refused.json()["errors"][0]["message"]
    assert refusal["data"]["digest"] == new.digest
    moved, gone = fields["boltseal.tag.moved.v1False"]["data"], fields["boltseal.tag.moved.v1True"]["data"]
    assert (moved["was"], moved["digest"]) == (old.digest, new.digest)
    assert (gone["was"], gone["digest"]) == (new.digest, None)


@pytest.mark.slow
async def test_events_for_a_dead_receiver_are_delivered_after_a_restart(tmp_path: Path) -> None:
    """Events for an unreachable receiver are delivered after a restart; /readyz names the receiver and stays ready."""
    async with inbox(answer("503 No")) as box:
        async with serving_as(settings(tmp_path / "data", box)) as registry:
            await push(registry.client, "shop/app", "latest", image("old"))
            await push(registry.client, "shop/app", "latest", image("new"))
            await box.until(1)

            async def reported() -> httpx2.Response | None:
                answer = await registry.client.get("/readyz")
                return answer if "delivery to 127.0.0.1 failed" in str(answer.json()) else None

            ready = await until_answer(reported, "/readyz names the receiver")
        at_first = len(box.bodies)
        box.answers = [answer("200 OK")]
        later = settings(tmp_path / "data", box)
        async with serving_as(later, clock=_in_an_hour):
            await box.until(at_first + 1)

    assert ready is not None
    assert ready.status_code == 200
    assert box.events[-1]["id"] == box.events[0]["id"]
    assert "127.0.0.1:" not in str(ready.json())


def _in_an_hour() -> int:
    return now_us() + 3_600_000_000


@pytest.mark.slow
async def test_a_push_waits_for_no_receiver(tmp_path: Path) -> None:
    """A receiver that hangs delays no push."""
    async with inbox(HANGS) as box, serving_as(settings(tmp_path / "data", box)) as registry:
        for number in range(20):
            answered = await push(registry.client, "shop/app", "latest", image(str(number)))
            assert answered.status_code == 201
        await box.until(1)


async def begun(data: Path) -> None:
    """Wait until both logs were read."""
    await until(lambda: rows(data)[1] >= 2, "both logs are read", 20.0)


def rows(data: Path) -> tuple[int, int]:
    """Return how many events wait in the outbox, and how many logs have a cursor."""
    with closing(sqlite3.connect(data / "boltseal.db")) as database:
        ((events, cursors),) = database.execute(
            "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM outbox_cursor)"
        )
        return events, cursors


async def test_a_server_without_receivers_or_read_only_writes_no_outbox(tmp_path: Path) -> None:
    """A server without receivers, or a read-only one, writes no outbox row."""
    async with inbox() as box:
        plain = Settings.model_validate({"server": {"data": tmp_path / "data"}})
        async with serving_as(plain) as registry:
            await push(registry.client, "shop/app", "latest", image("old"))
        async with serving_as(settings(tmp_path / "data", box, read_only=True)):
            pass

    assert rows(tmp_path / "data") == (0, 0)


@pytest.mark.slow
async def test_workers_deliver_each_event_once(tmp_path: Path) -> None:
    """One worker process delivers each event once, whichever worker handled the push."""
    async with inbox() as box:
        config = f'[[rule]]\nmode = "floating"\n\n[[notify]]\nurl = "{box.url}"\n'
        with servers.boltseal(tmp_path / "data", config=config, workers=2) as server:
            for number in range(10):  # one connection each, so that both workers get some
                async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
                    assert (await push(client, "shop/app", "latest", image(str(number)))).status_code == 201
            await box.until(9)
            await asyncio.sleep(2)  # no event arrives twice, whichever worker delivers
            taken = len(box.events)
            box.answers = [answer("500 No")]
            async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
                await push(client, "shop/app", "latest", image("last"))
            await box.until(10)

    assert taken == len({one["id"] for one in box.events[:9]}) == 9
    assert "/hook" not in server.log.read_text()


async def test_events_of_a_mirror_are_delivered(tmp_path: Path) -> None:
    """Events of a mirrored registry are delivered as they were passed to the application."""
    async with inbox() as box, serving_as(settings(tmp_path / "data", box)) as registry:
        assert isinstance(registry.app, Application)
        registry.app._events.handle(QuotaLow("docker.io", 3, 100, 21600))
        await box.until(1)

    assert box.events[0]["type"] == "boltseal.quota.low.v1"


@pytest.mark.slow
async def test_a_mirrors_move_is_delivered_once_after_kill_9(tmp_path: Path) -> None:
    """A mirrored tag's move is logged before delivery, so after kill -9 the next process delivers it once."""
    async with FakeUpstream().listening() as upstream, inbox() as box:
        both = settings(tmp_path / "data", box).model_dump(exclude_unset=True) | {
            "upstream": [{"name": "up.example", "url": f"http://{upstream.authority}", "fresh": "0s"}]
        }
        wanted = Settings.model_validate(both)
        path = "/v2/up.example/team/app/manifests/1.4.2"
        first = upstream.publish("team/app", "1.4.2", image("one"))
        async with serving_as(wanted) as mirror:
            await begun(tmp_path / "data")
            await mirror.client.get(path)
            second = upstream.publish("team/app", "1.4.2", image("two"))
            await mirror.client.get(path)
            await box.until(1)
        silent = Settings.model_validate({key: value for key, value in both.items() if key != "notify"})
        async with serving_as(silent) as mirror:  # no delivery: as if the process had been killed before it could
            third = upstream.publish("team/app", "1.4.2", image("three"))
            await mirror.client.get(path)
        async with serving_as(wanted):
            await box.until(2)
            await asyncio.sleep(1.2)  # longer than a round of deliveries: no event arrives twice
    moves = [(one["data"]["was"], one["data"]["digest"]) for one in box.events]

    assert moves == [(first.digest, second.digest), (second.digest, third.digest)]
    assert {one["subject"] for one in box.events} == {"up.example/team/app:1.4.2"}
    assert len({one["id"] for one in box.events}) == 2
