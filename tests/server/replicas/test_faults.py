"""Faults of everything that three servers consist of and use, under load: what was acknowledged stays true at every server.

Each server, PostgreSQL and the S3 server are on a host of their own (`cluster`); the load is that of `load`, the faults are those of `faults`, one after the
other by a seed. After each fault the checks of `promises` are made. A run of one seed is the same schedule each time, but not the same moments.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import collect
from boltseal.server.store_factory import examine_store, open_store
from tests.images import image
from tests.polling import until_answer
from tests.server.replicas.cluster import SERVERS, Cluster, cluster
from tests.server.replicas.faults import (
    Break,
    Fault,
    clock_ahead,
    clock_behind,
    cut_from_database,
    cut_from_standby,
    database_cut_off,
    database_killed,
    frozen,
    schedule,
)
from tests.server.replicas.load import APP, Load
from tests.server.replicas.promises import Image, broken, gaps, lost
from tests.soak.scale import IS_FULL

pytestmark = [pytest.mark.real, pytest.mark.slow]

SEEDS = range(1, 11) if IS_FULL else range(1, 2)
LASTS_S = 60.0 if IS_FULL else 3.0
"""How long a fault lasts, at least: until it is felt."""
OUTLASTS_S: Final[dict[Break, float]] = {
    frozen: 17.0,  # PostgreSQL ends a silent session after 15 s, and another server gets its leases
    **dict.fromkeys((cut_from_database, cut_from_standby, database_killed, database_cut_off), 8.0),
}
"""How long these last, at least: longer than `serve_stale` and its margin, or than a lease."""
WITHIN_S = 180.0
_log = logging.getLogger(__name__)
TWO_DAYS_US = 2 * 24 * 3600 * 1_000_000


async def ready_again(load: Load) -> None:
    """Wait until each server is ready and has acknowledged a push."""
    for server in range(SERVERS):

        async def ready(server: int = server) -> bool:
            answer = await load.ask(server, "GET", "/readyz")
            return answer is not None and answer.json() == {"ready": True}

        async def pushed(server: int = server) -> bool:
            number = next(load.numbers)
            return await load.push(server, f"{APP}0", f"3.{number}.0", image(f"{load.seed} after a fault {number}"))

        await until_answer(ready, f"server {server} is ready", WITHIN_S)
        await until_answer(pushed, f"server {server} acknowledges a push", WITHIN_S)


async def felt(load: Load, fault: Fault, before: dict[int, int]) -> None:
    """Wait until the servers that a fault is about have felt it: requests were not decided, or they say that their clock is wrong."""
    if fault.breaks in {clock_ahead, clock_behind}:

        async def says() -> bool:
            answer = await load.ask(fault.server, "GET", "/readyz", allowed=frozenset({200, 503}))
            return answer is not None and "the clock of this server differs" in answer.text

        await until_answer(says, "the server says that its clock is wrong", WITHIN_S)
        return

    async def failed() -> bool:
        return all(load.failed[server] > before[server] for server in fault.felt_by)

    await until_answer(failed, f"requests fail during {fault}", WITHIN_S)


async def suffer(running: Cluster, load: Load, fault: Fault) -> None:
    """Break something, wait, and repair it."""
    await asyncio.sleep(fault.after_s)  # the moment of the fault, at random
    before = {server: load.failed[server] for server in range(SERVERS)}
    breaking = fault.breaks(running, fault.server)
    await asyncio.to_thread(breaking.__enter__)
    try:
        await asyncio.sleep(max(LASTS_S, OUTLASTS_S.get(fault.breaks, 0.0)))  # how long the fault lasts
        await felt(load, fault, before)
    finally:
        await asyncio.to_thread(breaking.__exit__, None, None, None)


async def check(load: Load, images: list[Image], *, ledger: bool = True) -> dict[str, list[str]]:
    """Return what is wrong now, by the name of the check. `images`: are read from every server."""
    since_s = time.monotonic()
    subjects = {subject for each in images for subject in each.subjects}
    gate = asyncio.Semaphore(8)

    async def read(server: int, subject: str) -> None:
        async def decided() -> bool:
            async with gate:
                return (await load.read(server, subject)).status is not None

        await until_answer(decided, f"server {server} answers whether it has {subject}", WITHIN_S)

    await asyncio.gather(*(read(server, subject) for server in range(SERVERS) for subject in subjects))
    found = broken(load.record, {tag for tag in load.record.histories if tag.startswith("deletable")})
    if missing := lost(images, load.record.reads, range(SERVERS), since_s):
        found["lost"] = missing[:20]
    if ledger and (wrong := await gaps_now(load)):
        found["gaps"] = wrong[:20]
    return found


async def gaps_now(load: Load) -> list[str]:
    """Compare all that was acknowledged, and every signature that was seen, with the entries of now."""
    record = load.record
    before = replace(record, images=list(record.images), checkpoints=list(record.checkpoints))
    least = max((each.entry + 1 for each in before.images if each.entry is not None), default=0)

    async def read() -> bool:
        return await load.read_entries(least)

    await until_answer(read, f"{least} entries are signed and read", WITHIN_S)
    return gaps(replace(before, entries=record.entries))


def collect_garbage(running: Cluster) -> list[object]:
    """Collect garbage as two days later, and return what is wrong with the store then."""
    settings = running.registry.settings("replica0")
    with open_store(settings) as store:
        blobs, later_us = store.blobs, store.database.now_us() + TWO_DAYS_US
        assert blobs.upkeep is not None
        list(FullCollection(store.database, blobs.maintenance, blobs.upkeep, later_us).find_all(dry_run=False))
        list(collect(store.database, blobs.maintenance, blobs.upload_cleanup, later_us, dry_run=False))
        blobs.upkeep.run(later_us)
    return list(examine_store(settings, lambda *_: None).findings)


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_promise_is_kept_through_one_fault_after_the_other(tmp_path: Path, seed: int) -> None:
    """After each fault every acknowledged image is at every server, and no tag, signature, right or answer contradicts another."""
    faults = schedule(seed, whole=IS_FULL)
    _log.warning("seed %d: %s", seed, "; ".join(map(str, faults)))  # pytest shows it if the test fails
    with cluster(tmp_path) as running:
        async with Load(running, seed) as load:
            await ready_again(load)
            checked = 0, 0
            for fault in faults:
                await suffer(running, load, fault)
                repaired_s = time.monotonic()
                await ready_again(load)
                _log.warning("%s: ready again %.1f s after its end", fault, time.monotonic() - repaired_s)
                since, checked = checked, (len(load.record.images), len(load.uploads))
                if IS_FULL:  # everything after each fault; otherwise what is new, and everything at the end
                    since = 0, 0
                found = await check(
                    load, load.record.images[since[0] : checked[0]] + load.uploads[since[1] : checked[1]]
                )

                assert found == {}, fault
                assert load.unexpected == [], fault
            await load.end()
            of_images = {subject for each in load.record.images for subject in each.subjects}
            found = await check(load, [each for each in load.uploads if not of_images & each.subjects.keys()])
            after_collection = await asyncio.to_thread(collect_garbage, running)
            kept = await check(load, load.record.images, ledger=False)

    assert found == {}
    assert after_collection == []
    assert kept == {}
    assert load.unexpected == []
    assert load.done.keys() >= {
        "races",
        "mounts",
        "purges",
        "removed users",
        "pulls of users",
        "put",
        "replace",
        "delete",
    }
