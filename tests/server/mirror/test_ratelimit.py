"""`boltseal ratelimit`: a registry's limit by a HEAD, and those of a mirror's upstreams without a request."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from boltseal.ledger.entry import format_time
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.store_factory import now_us, prepare
from tests.cli import program
from tests.fakes.upstream import FakeUpstream, status
from tests.server.mirror.mirrors import NAME


@pytest.fixture
def fake() -> Iterator[FakeUpstream]:
    """An upstream in a thread of its own, because this process's command waits for it."""
    fake, ready, ending = FakeUpstream(), threading.Event(), threading.Event()

    async def run() -> None:
        async with fake.listening():
            ready.set()
            await asyncio.to_thread(ending.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    ready.wait()
    yield fake
    ending.set()
    thread.join()


@pytest.mark.parametrize(("left", "code"), [(76, 0), (0, 1)])
@pytest.mark.slow
def test_a_registrys_limit_is_read_by_one_head(fake: FakeUpstream, left: int, code: int) -> None:
    """A registry's limit is read from the answer to one HEAD, also from a refusal."""
    fake.answers["HEAD /v2/"] = status(
        429 if left == 0 else 200,
        ratelimit_limit="100;w=21600",
        ratelimit_remaining=f"{left};w=21600",
        docker_ratelimit_source="192.0.2.1",
    )
    ran, text = (program.call("ratelimit", fake.authority, "--anonymous", *more) for more in (["--json"], []))
    result = ran.json["results"][0]

    assert (ran.code, text.code) == (code, code)
    assert ran.json["schema"] == "boltseal.ratelimit/1"
    assert (result["remaining"], result["limit"], result["window_s"], result["source"]) == (
        left,
        100,
        21600,
        "192.0.2.1",
    )
    assert "6 h" in text.out
    assert not any(asked.method == "GET" and "manifests" in asked.target for asked in fake.asked)


def test_a_registry_without_a_limit_is_reported_as_such(fake: FakeUpstream) -> None:
    """A registry without a limit is not a failure."""
    result = program.call("ratelimit", fake.authority, "--anonymous", "--json")

    assert result.code == 0
    assert result.json["results"][0]["status"] == "none"


@pytest.mark.slow
def test_a_registry_that_does_not_answer_could_not_be_checked(fake: FakeUpstream) -> None:
    """A registry that does not answer is exit code 3, and not "unlimited"; the others are shown."""
    alone = program.call("ratelimit", "127.0.0.1:9", "--anonymous")
    both = program.call("ratelimit", "127.0.0.1:9", fake.authority, "--anonymous", "--json")

    assert alone.code == 3
    assert "127.0.0.1:9" in alone.err
    assert both.code == 3
    assert [each["status"] for each in both.json["results"]] == ["unknown", "none"]


def test_a_mirror_without_upstreams_has_nothing_to_show(tmp_path: Path) -> None:
    """Nothing to check is exit code 3, with what to do."""
    prepare(Settings.model_validate({"server": {"data": tmp_path / "data"}}))
    shown = program.call("ratelimit", "--data", tmp_path / "data")

    assert shown.code == 3
    assert "there is no [[upstream]]; name a registry" in shown.err


def test_the_last_known_limits_of_the_mirror_are_shown(tmp_path: Path) -> None:
    """For each upstream of the mirror the last known limit is shown with its reserve, without a request."""
    data, config = tmp_path / "data", tmp_path / "boltseal.toml"
    config.write_text(f'[server]\ndata = "{data}"\n[[upstream]]\nname = "{NAME}"\nreserve = 30\n')
    prepare(Settings.model_validate({"server": {"data": data}, "upstream": [{"name": NAME}]}))
    before, unasked = (
        program.call("ratelimit", "--config", config, "--json"),
        program.call("ratelimit", "--config", config),
    )
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection, connection:
        connection.execute("INSERT INTO upstream VALUES (?, 1, 'it failed', NULL, NULL, NULL, NULL, NULL)", (NAME,))
    down = program.call("ratelimit", "--config", config)
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection, connection:
        connection.execute(
            "REPLACE INTO upstream VALUES (?, 1, 'it failed', 100, 30, 21600, '192.0.2.1', 1795500000000000)", (NAME,)
        )
    low, text = program.call("ratelimit", "--config", config, "--json"), program.call("ratelimit", "--config", config)

    assert (before.code, before.json["results"][0]["status"]) == (3, "unknown")
    assert f"it was not asked yet, or states none; ask it with: boltseal ratelimit {NAME}" in unasked.err
    assert down.code == 3
    assert "it has not answered since 1970-01-01" in down.err
    assert (low.code, low.json["results"][0]["status"], low.json["results"][0]["remaining"]) == (1, "low", 30)
    assert "has not answered since" in text.err
    assert "2026-11" in text.out


def test_a_pause_of_an_upstream_is_shown(tmp_path: Path) -> None:
    """`ratelimit` shows until when an upstream gets no request, and why, but no pause that is over."""
    data, config = tmp_path / "data", tmp_path / "boltseal.toml"
    config.write_text(f'[server]\ndata = "{data}"\n[[upstream]]\nname = "{NAME}"\n')
    prepare(Settings.model_validate({"server": {"data": data}, "upstream": [{"name": NAME}]}))
    shown, ends_us = [], now_us() + 600_000_000
    for until_us in (ends_us, 1_000_000):
        with closing(sqlite3.connect(data / DATABASE_NAME)) as connection, connection:
            connection.execute(
                "INSERT OR REPLACE INTO upstream_pause VALUES (?, ?, 0, 'it was busy')", (NAME, until_us)
            )
        shown.append(program.call("ratelimit", "--config", config).err)

    assert f"{NAME} gets no request before {format_time(ends_us)[:16]}" in shown[0]
    assert "it was busy" in shown[0]
    assert "gets no request" not in shown[1]
