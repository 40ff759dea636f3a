"""A clock that steps while the registry runs, over HTTP: what is refused, and how writing goes on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.entry import EntryKind, parse
from boltseal.server.app import create_app
from boltseal.server.commands.ledger import confirm_clock
from boltseal.server.registry.sequencer import ClockStepped
from boltseal.server.storage.clock_guard import ClockGuard
from boltseal.server.storage.coordination.factory import open_leases
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metrics import RunFolder
from boltseal.server.store_factory import collect_store, examine_store, now_us, open_store
from tests.asgi import running
from tests.images import image
from tests.polling import until, until_answer, until_signed
from tests.serving import FLOATING, ORIGIN, ledger_key, settings_of
from tests.storage_choice import read_rows, storage_of

HOUR_US = 3600 * 1_000_000
DAY_US = 24 * HOUR_US
WRONG = re.compile(r"^boltseal_clock_wrong (\S+)", re.MULTILINE)


class Wrong:
    """The clock of this machine with an error."""

    def __init__(self, by_us: int = 0) -> None:
        self.by_us = by_us

    def __call__(self) -> int:
        return now_us() + self.by_us


def running_server(data: Path) -> Path:
    """Return the run folder of the server on this data folder."""
    run = RunFolder.of_running_server(data)
    assert run is not None
    return run


@asynccontextmanager
async def worker(data: Path, clock: Wrong, run: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """One worker of the server whose run folder this is."""
    app = create_app(settings_of(data, FLOATING), clock=clock, run=run, clock_guard=ClockGuard(run))
    async with running(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ORIGIN) as client:
        yield client


def run_folder(data: Path) -> Path:
    """Return the run folder of this process."""
    data.mkdir(exist_ok=True)
    return RunFolder.make(data)


@asynccontextmanager
async def server(data: Path, clock: Wrong) -> AsyncIterator[httpx2.AsyncClient]:
    """A server that starts now, by this clock."""
    run = run_folder(data)
    ClockGuard(run).confirm(clock())
    async with worker(data, clock, run) as client:
        yield client


async def push(client: httpx2.AsyncClient, tag: str) -> httpx2.Response:
    """Push an image; return the first refusal, or the answer to the manifest."""
    document = image(tag)
    for blob in document.blobs:
        answer = await client.post(
            "/v2/shop/app/blobs/uploads/",
            params={"digest": blob.digest},
            content=blob.data,
            headers={"content-type": "application/octet-stream"},
        )
        if answer.status_code != 201:
            return answer
    return await client.put(
        f"/v2/shop/app/manifests/{tag}", content=document.raw, headers={"content-type": document.media_type}
    )


def first_cleanup_is_over(data: Path) -> bool:
    """Return whether the cleanup of a started server has ended: it has made its lease, and holds it no more."""
    storage = storage_of(data)
    if storage.database is None:
        begun = (data / "tidy-up.lease").exists()
    else:
        begun = bool(read_rows(data, "SELECT 1 FROM lease WHERE name = 'tidy-up'"))
    if not begun:
        return False
    with closing(open_leases(data, storage)) as leases:
        lease = leases.acquire("tidy-up")
        if lease is not None:
            lease.release()
    return lease is not None


def kinds(data: Path) -> list[EntryKind]:
    with open_store(settings_of(data)) as store:
        return [parse(line).kind for _, line in store.database.read_and_wait(lambda s: list(ledger_store.lines(s)))]


async def test_a_step_forward_refuses_writes_until_the_clock_returns(tmp_path: Path) -> None:
    """After a step forward every process refuses writes with 503 and serves pulls, until the clock is corrected."""
    data, clock = tmp_path / "data", Wrong()
    async with server(data, clock) as client:
        before = await push(client, "1.0.0")
        clock.by_us = 400 * DAY_US
        refused, ready, pulled = (
            await push(client, "1.0.1"),
            await client.get("/readyz"),
            await client.get("/v2/shop/app/manifests/1.0.0"),
        )
        (metric,) = WRONG.findall((await client.get("/metrics")).text)
        async with worker(data, clock, running_server(data)) as later:
            by_a_later_worker = await push(later, "1.0.1")
        clock.by_us = 0
        after = await push(client, "1.0.1")

    assert before.status_code == after.status_code == 201
    assert pulled.status_code == 200
    for answer in (refused, by_a_later_worker):
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert "boltseal ledger recover --clock" in answer.text
    assert ready.status_code == 503
    assert "stepped forward by" in ready.text
    assert float(metric) == 1.0


@pytest.mark.parametrize("by_us", [-4 * 60 * 1_000_000, HOUR_US - 60_000_000])
async def test_a_small_step_changes_nothing(tmp_path: Path, by_us: int) -> None:
    """A step of four minutes back or almost an hour forward does not refuse writes."""
    clock = Wrong()
    async with server(tmp_path / "data", clock) as client:
        await push(client, "1.0.0")
        clock.by_us = by_us
        pushed, ready = await push(client, "1.0.1"), await client.get("/readyz")

    assert (pushed.status_code, ready.status_code) == (201, 200)


async def test_a_gap_to_the_last_entry_is_normal_at_the_start(tmp_path: Path) -> None:
    """A registry that starts a year after its last entry accepts writes at once."""
    data, clock = tmp_path / "data", Wrong(-365 * DAY_US)
    async with server(data, clock) as client:
        await push(client, "1.0.0")
    async with server(data, Wrong()) as client:
        pushed = await push(client, "1.0.1")

    assert pushed.status_code == 201


async def test_the_operator_confirms_a_clock_that_was_behind(tmp_path: Path) -> None:
    """A server that started two days in the past writes again after `ledger recover --clock`, without an entry about it."""
    data, clock = tmp_path / "data", Wrong(-2 * DAY_US)
    async with server(data, clock) as client:
        await push(client, "1.0.0")
        clock.by_us = 0
        refused = await push(client, "1.0.1")
        with pytest.raises(ClockStepped, match="nothing is deleted"):
            list(collect_store(settings_of(data), dry_run=False))
        confirmed = confirm_clock(settings_of(data), "")
        pushed = await push(client, "1.0.1")

    assert (refused.status_code, pushed.status_code) == (503, 201)
    assert confirmed.stepped_back == ()
    assert EntryKind.RECOVERED not in kinds(data)


async def test_a_ledger_with_an_entry_from_the_future_is_continued_without_loss(tmp_path: Path) -> None:
    """After an entry 400 days ahead, `ledger recover --clock` records one recovery and keeps entries, origin and key."""
    data, clock = tmp_path / "data", Wrong(400 * DAY_US)
    async with server(data, clock) as client:

        async def pushed_in_the_future() -> bool:
            return (await push(client, "1.0.0")).status_code == 201

        # Files have the time of the kernel's clock, so the first cleanup takes every upload for an abandoned one, also those
        # after the clock was corrected: it goes on with the time that it began with.
        await until_answer(pushed_in_the_future, "a push is accepted")
        await until(lambda: first_cleanup_is_over(data), "the first cleanup is over")
        key = ledger_key(data)
        clock.by_us = 0
        refused, ready = await push(client, "1.0.1"), await client.get("/readyz")
        confirmed = confirm_clock(settings_of(data), "the battery was empty")
        pushed, ready_again = await push(client, "1.0.1"), await client.get("/readyz")
        await until_signed(client, 5)
        repeated = confirm_clock(settings_of(data), "")

    assert (refused.status_code, pushed.status_code) == (503, 201)
    assert (ready.status_code, ready_again.status_code) == (503, 200)
    assert "boltseal ledger recover --clock" in refused.text
    assert confirmed.stepped_back == ("ledger",)
    assert repeated.stepped_back == ()
    assert ledger_key(data) == key
    assert kinds(data)[-3:] == [EntryKind.TAG_CREATED, EntryKind.RECOVERED, EntryKind.TAG_CREATED]
    assert examine_store(settings_of(data), lambda *_: None).findings == ()
