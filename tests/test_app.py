"""The application: opening and closing of its store, readiness, cleanup."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.entry import Entry, EntryKind, parse
from boltseal.server.app import create_app
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.migrate import FormatInvalid
from boltseal.server.store_factory import open_store, prepare
from tests import images
from tests.asgi import running
from tests.polling import until_answer
from tests.serving import FLOATING, Clock, serving, settings_of

NOW_US = 1_795_500_000_000_000
"""An arbitrary time, 2026-11-24."""


def entries(settings: Settings) -> list[Entry]:
    """Return the ledger entries of a data folder."""
    with open_store(settings) as store:
        lines = store.database.read_and_wait(lambda connection: list(ledger_store.lines(connection)))
    return [parse(line) for _, line in lines]


# --- start and end ---


async def test_nothing_is_opened_before_the_lifespan(tmp_path: Path) -> None:
    """Building an application opens and creates nothing."""
    app = create_app(settings_of(tmp_path / "data"))
    before = (tmp_path / "data").exists()
    async with running(app):
        during = (tmp_path / "data" / "format").exists()

    assert (before, during) == (False, True)


async def test_the_end_of_the_lifespan_releases_everything(tmp_path: Path) -> None:
    """At the end of the lifespan no thread is left, and the folder can be opened again."""
    threads = set(threading.enumerate())
    for _ in range(2):
        async with serving(tmp_path / "data") as registry:
            assert (await registry.client.get("/v2/")).status_code == 200

    assert [t.name for t in set(threading.enumerate()) - threads if t.name.startswith("boltseal")] == []


async def test_two_registries_in_one_process_are_independent(tmp_path: Path) -> None:
    """Two registries in one process are independent, because no module has mutable state."""
    async with serving(tmp_path / "one") as one, serving(tmp_path / "two") as two:
        await images.push(one.client, "shop/app", "1.4.2", images.image("words"))
        answers = [(await each.client.get("/v2/shop/app/manifests/1.4.2")).status_code for each in (one, two)]

    assert answers == [200, 404]


def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    """Commands that read a data folder do not create a missing one."""
    with pytest.raises(FormatInvalid), open_store(settings_of(tmp_path / "data")):
        pass

    assert not (tmp_path / "data").exists()


# --- start of the ledger ---


@pytest.mark.parametrize(
    ("tables", "origin"),
    [
        ({}, "localhost:5000"),
        ({"server": {"public_url": "https://registry.example.com"}}, "registry.example.com"),
        ({"server": {"listen": "192.0.2.1:5000"}}, "192.0.2.1:5000"),
        (
            {"server": {"public_url": "https://a.example.com"}, "ledger": {"origin": "b.example.com/log"}},
            "b.example.com/log",
        ),
    ],
)
def test_the_ledger_is_named_at_its_first_start(
    tmp_path: Path, tables: dict[str, dict[str, object]], origin: str
) -> None:
    """The ledger's name is configured or derived from the address at its first start; later settings do not rename it."""
    server = {**tables.get("server", {}), "data": tmp_path / "data"}
    settings = Settings.model_validate({**tables, "server": server})
    prepare(settings)
    prepare(Settings.model_validate({"server": server, "ledger": {"origin": "later.example.com"}}))

    assert {entry.registry for entry in entries(settings)} == {origin}


def test_rules_are_recorded_when_they_change_and_only_then(tmp_path: Path) -> None:
    """A restart with the same rules adds no ledger entry."""
    for rules in ((), (), FLOATING, FLOATING, ()):
        prepare(settings_of(tmp_path / "data", rules))

    kinds = [entry.kind for entry in entries(settings_of(tmp_path / "data"))]

    assert kinds == [EntryKind.LOG_STARTED, EntryKind.RULES_CHANGED, EntryKind.RULES_CHANGED, EntryKind.RULES_CHANGED]


def test_a_command_with_other_rules_records_none(tmp_path: Path) -> None:
    """Only a server records rules in the ledger, and a command with other rules does not."""
    prepare(settings_of(tmp_path / "data"))
    before = entries(settings_of(tmp_path / "data"))
    after = entries(settings_of(tmp_path / "data", FLOATING))

    assert after == before


# --- health ---


async def test_a_clock_far_behind_the_ledger_is_not_ready(tmp_path: Path) -> None:
    """A clock far behind the ledger makes the server unready; five minutes are tolerated."""
    clock = Clock(NOW_US)
    async with serving(tmp_path / "data", clock=clock) as registry:
        clock.now_us = NOW_US - 299_000_000
        forgiven = await registry.client.get("/readyz")
        clock.now_us = NOW_US - 301_000_000
        behind = await registry.client.get("/readyz")
        health = await registry.client.get("/healthz")

    assert forgiven.status_code == 200
    assert behind.status_code == 503
    assert behind.json()["ready"] is False
    assert "clock" in behind.json()["reasons"][0]
    assert health.status_code == 200


async def test_a_head_of_the_health_endpoints_is_answered(tmp_path: Path) -> None:
    """HEAD of the health endpoints is answered, since some load balancers send it."""
    async with serving(tmp_path / "data") as registry:
        codes = [(await registry.client.head(path)).status_code for path in ("/healthz", "/readyz")]

    assert codes == [200, 200]


# --- cleanup ---


async def test_abandoned_uploads_are_deleted_after_a_day(tmp_path: Path) -> None:
    """A running server deletes upload sessions that were idle for a day; one of the previous evening can continue."""
    async with serving(tmp_path / "data") as registry:
        locations = [await images.start_upload(registry.client, "shop/app") for _ in range(2)]
    for location, hours in zip(locations, (23, 25), strict=True):
        name = location.partition("?")[0].rpartition("/")[2]
        session = next((tmp_path / "data" / "uploads").glob(f"{name}*"))
        os.utime(session, (time.time() - hours * 3600,) * 2)

    async with serving(tmp_path / "data") as registry:

        async def deleted() -> bool:
            return (await registry.client.get(locations[1])).status_code == 404

        await until_answer(deleted, "the abandoned upload is deleted")
        young = await registry.client.get(locations[0])

    assert young.status_code == 204


async def test_a_path_beside_the_api_is_unknown(tmp_path: Path) -> None:
    """/v2x is unknown, and is not treated as /v2/."""
    async with serving(tmp_path / "data") as registry:
        answers: list[httpx2.Response] = [await registry.client.get(path) for path in ("/v2x", "/", "/v2x/y")]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
