"""`POST /api/v1/gc` deletes unreferenced blobs, a part for each request, and records who did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.server.api.admin.paging import cursor_of
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.factory import open_leases
from boltseal.server.storage.garbage_collection import CLEANUP_LEASE, FAILURES_IN_A_ROW
from boltseal.server.store_factory import collect_store, now_us
from tests.admin_requests import as_user, get, items_of, post, settings_with_users
from tests.images import image, push, push_parts, start_upload
from tests.server.seal.admin import bytes_on_disk
from tests.serving import Clock, serving_as

IMAGES = [image(f"unused {number}") for number in range(3)]
KEPT = image("kept")
ABANDONED = 2


@dataclass
class Unused:
    """A registry with the blobs of three pushes that had no manifest, an image, and abandoned uploads."""

    client: httpx2.AsyncClient
    clock: Clock
    settings: Settings

    async def collect(self, **fields: Any) -> list[dict[str, Any]]:
        """Send requests until the last part, and return all items."""
        found: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            answer = await post(self.client, "gc", "boss", cursor=cursor, **fields)
            assert answer.status_code == 200, answer.text
            part = answer.json()
            found, cursor = found + part["items"], part["next"]
        return found

    async def planned_on_data(self) -> list[tuple[str, str, int, str]]:
        """Return what `admin gc --dry-run` lists."""
        call = asyncio.to_thread(lambda: list(collect_store(self.settings, dry_run=True, clock=self.clock)))
        return sorted((each.what, each.name, each.size_bytes, each.reason) for each in await call)

    async def blobs(self) -> set[int]:
        """Return what HEAD of the unused blobs gets."""
        paths = [f"/v2/shop/app/blobs/{blob.digest}" for each in IMAGES for blob in each.blobs]
        return {(await self.client.head(path, auth=as_user("boss"))).status_code for path in paths}


@pytest.fixture
async def unused(data: Path) -> AsyncIterator[Unused]:
    clock = Clock(now_us())
    settings = settings_with_users(data)
    async with serving_as(settings, clock=clock) as registry:
        client = registry.client
        client.auth = as_user("boss")
        for each in IMAGES:
            await push_parts(client, "shop/app", each)
        await push(client, "shop/app", "1.4.2", KEPT)
        client.auth = httpx2.Auth()
        clock.advance(days=1, seconds=1)
        yield Unused(client, clock, settings)


def shown(items: list[dict[str, Any]]) -> list[tuple[str, str, int, str]]:
    """Return items as `planned_on_data` does."""
    return sorted((each["what"], each["name"], each["size"], each["reason"]) for each in items)


async def test_the_api_collects_what_the_command_lists(unused: Unused) -> None:
    """Hidden first, removed 65 minutes later, as on the data folder; the image stays, and the audit log names the operator."""
    planned = await unused.planned_on_data()
    hidden = await unused.collect()
    at_once = await unused.collect()
    unused.clock.advance(seconds=3901)
    planned_later = await unused.planned_on_data()
    removed = await unused.collect()
    records = await items_of(unused.client, "audit", "boss")
    kept = await unused.client.get("/v2/shop/app/manifests/1.4.2", auth=as_user("boss"))

    assert (len(planned), shown(hidden), at_once) == (6, planned, [])
    assert {each["status"] for each in hidden} == {"hidden"}
    assert (len(planned_later), shown(removed)) == (6, planned_later)
    assert {(each["status"], each["what"], each["freed"]) for each in removed} == {("removed", "repository-blob", 0)}
    assert await unused.blobs() == {404}
    assert kept.status_code == 200
    assert [(each["actor"], each["action"]) for each in records if each["action"] == "gc.run"] == [
        ("boss", "gc.run")
    ] * 3


async def test_a_dry_run_deletes_nothing(unused: Unused) -> None:
    """A dry run lists what the run would do, leaves it, and is in no audit log; a request may list few items."""
    planned = await unused.planned_on_data()
    listed = await unused.collect(dry_run=True)
    again = await unused.collect(dry_run=True, limit=1)
    records = await items_of(unused.client, "audit", "boss")

    assert shown(listed) == shown(again) == planned == await unused.planned_on_data()
    assert await unused.blobs() == {200}
    assert not any(each["action"] == "gc.run" for each in records)


async def test_bytes_and_abandoned_uploads_go_in_small_parts(unused: Unused) -> None:
    """With `limit` 1 each part ends soon, and together they delete all, each thing once."""
    client = unused.client
    client.auth = as_user("boss")
    for _ in range(ABANDONED):
        await start_upload(client, "shop/app")
    client.auth = httpx2.Auth()
    await unused.collect(limit=1)
    unused.clock.advance(seconds=3901)
    rows = await unused.collect(limit=1)
    unused.clock.advance(days=2)
    planned = await unused.planned_on_data()
    listed = await unused.collect(limit=1, dry_run=True)
    deleted = await unused.collect(limit=1)

    assert len(rows) == 6
    assert [each["what"] for each in deleted].count("blob") == 6
    assert [each["what"] for each in deleted].count("upload") == len([each for each in planned if each[0] == "upload"])
    assert shown(deleted) == shown(listed) == planned
    assert sum(each["freed"] for each in deleted) == sum(each["size"] for each in deleted)


@pytest.mark.files_only("replaces folders of blobs with files")
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_store_that_can_delete_nothing_is_an_error(unused: Unused, dry_run: bool) -> None:
    """If file after file can't be deleted, the first request gets the error: no part with failures alone follows the other."""
    images = [*IMAGES, *(image(f"also unused {number}") for number in range(FAILURES_IN_A_ROW))]
    unused.client.auth = as_user("boss")
    for each in images[len(IMAGES) :]:
        await push_parts(unused.client, "shop/app", each)
    unused.client.auth = httpx2.Auth()
    unused.clock.advance(days=1, seconds=1)
    await unused.collect()
    unused.clock.advance(seconds=3901)
    await unused.collect()
    unused.clock.advance(days=2)
    for each in images:
        for blob in each.blobs:
            folder = bytes_on_disk(unused.settings.server.data, blob.digest).parent
            if folder.is_dir():
                folder.rename(folder.with_suffix(".aside"))
                folder.write_bytes(b"")
    answer = await post(unused.client, "gc", "boss", cursor="", dry_run=dry_run, limit=1000)

    assert answer.status_code == 503, answer.text


async def test_one_run_at_a_time(unused: Unused) -> None:
    """While another process has the lease a run is refused with 503, and nothing is deleted; a dry run is answered."""
    leases = open_leases(unused.settings.server.data, unused.settings.storage)
    held = await asyncio.to_thread(leases.acquire, CLEANUP_LEASE)
    try:
        refused = await post(unused.client, "gc", "boss")
        dry = await post(unused.client, "gc", "boss", dry_run=True)
        between = await unused.blobs()
    finally:
        if held is not None:
            held.release()
        leases.close()
    done = await post(unused.client, "gc", "boss")

    assert held is not None
    assert (refused.status_code, dry.status_code, done.status_code) == (503, 200, 200)
    assert "garbage collection runs already" in refused.text
    assert (between, len(dry.json()["items"])) == ({200}, 6)


async def test_only_operators_collect(unused: Unused) -> None:
    """Administrators of some repositories are refused, also a dry run, and learn nothing of blobs."""
    refused = [
        await post(unused.client, "gc", user, dry_run=dry_run)
        for user in ("lead", "ci", "other", "nobody", None)
        for dry_run in (True, False)
    ]

    assert [answer.status_code for answer in refused] == [403] * 8 + [401] * 2
    assert not any("sha256" in answer.text or "shop" in answer.text for answer in refused)
    assert await unused.blobs() == {200}


@pytest.mark.parametrize(
    "cursor",
    [
        "no",
        cursor_of("expire", 1, "1.0"),
        cursor_of("gc", "everything", 0, 0, "", 0, 0),
        cursor_of("gc", "blobs", 0, 2, "", 0, 0),
        cursor_of("gc", "blobs", 0, 0, "x", 2**31, 0),
        cursor_of("gc", "blobs", -1, 0, "", 0, 0),
        cursor_of("gc", "blobs", 0, 0, "\x00", 0, 0),
    ],
)
async def test_a_forged_cursor_is_refused(unused: Unused, cursor: str) -> None:
    """A cursor that no part returned is a 400."""
    answer = await post(unused.client, "gc", "boss", cursor=cursor)

    assert answer.status_code == 400


async def test_a_cursor_hides_nothing_that_is_deleted(unused: Unused) -> None:
    """A forged number of passed items has an effect only on a dry run: a run lists all that it deletes."""
    passed = cursor_of("gc", "mirrored", 1000, 0, "", 0, 0)
    answer = await post(unused.client, "gc", "boss", cursor=passed)
    records = await items_of(unused.client, "audit", "boss")

    assert len(answer.json()["items"]) == 6
    assert [each["subject"] for each in records if each["action"] == "gc.run"] == ["mirrored"]


async def test_a_registry_that_is_read_only_collects_nothing(data: Path) -> None:
    """A read-only registry refuses with 405."""
    settings = settings_with_users(data)
    async with serving_as(settings):
        pass
    server = settings.server.model_copy(update={"read_only": True})
    async with serving_as(settings.model_copy(update={"server": server})) as registry:
        refused = await post(registry.client, "gc", "boss")
        state = await get(registry.client, "gc", "boss")

    assert (refused.status_code, state.status_code) == (405, 200)
