"""Refused pushes as all servers of a registry see them, on each metadata database, also where a write fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from boltseal.server.registry.refused_pushes import (
    KEPT_US,
    MAX_PER_MINUTE,
    MAX_WAITING,
    NEWEST,
    RefusedPushes,
    expire_refused,
)
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata.refused_push_table import Bounds, Position, RefusedPush, RefusedPushRow
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.fakes.failing_database import FailingDatabase

DIGESTS = ["sha256:" + char * 64 for char in "abc"]
PUSH = RefusedPush("shop/app", "1.4.2", "sealed", DIGESTS[0], DIGESTS[1], "ci", "ci", "192.0.2.1", "{}")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Metadata, Metadata]]:
    """The database as two servers have opened it."""
    storage = StorageSettings()
    if request.param == "postgres":
        storage = StorageSettings(database=DatabaseUrl(request.getfixturevalue("new_database")()))
    metadata_factory.prepare_metadata(tmp_path / "data", storage)
    opened = [
        metadata_factory.open_metadata(tmp_path / "data", storage, lambda: time.time_ns() // 1000) for _ in range(2)
    ]
    yield opened[0], opened[1]
    for metadata in opened:
        metadata.close()


async def rows(database: Metadata) -> list[RefusedPushRow]:
    """Return all rows, the newest first."""
    return (await RefusedPushes(database).of_all(lambda _: True, before=NEWEST, since_us=0, limit=1000)).rows


async def test_pushes_that_are_refused_alike_are_one_row_for_all_servers(servers: tuple[Metadata, Metadata]) -> None:
    """Repeats at two servers add up; another digest, user, address or claim is another row."""
    both = [RefusedPushes(database) for database in servers]
    both[0].note(PUSH, "1.4.3")
    both[0].note(PUSH, "1.4.3")
    await both[0].write()
    both[1].note(PUSH, "1.4.4")
    others = (
        PUSH._replace(pushed=DIGESTS[2]),
        PUSH._replace(actor="ci (token k3)"),
        PUSH._replace(address="192.0.2.2"),
    )
    for other in (*others, PUSH._replace(extra='{"ci.run":"7"}')):
        both[1].note(other)
    await both[1].write()
    found = {row.push: row.when for row in await rows(servers[0])}

    assert len(found) == 5
    assert (found[PUSH].times, found[PUSH].free) == (3, "1.4.4")
    assert found[PUSH].first_us < found[PUSH].last_us
    assert {when.times for push, when in found.items() if push != PUSH} == {1}


@pytest.mark.parametrize("done", [False, True])
async def test_a_write_that_failed_is_repeated_and_counted_once(servers: tuple[Metadata, Metadata], done: bool) -> None:
    """Not written, or written and the answer lost: the next try records the same pushes, and those since then."""
    failing = FailingDatabase(servers[0])
    refused = RefusedPushes(failing)
    for _ in range(2):
        refused.note(PUSH)
    failing.failures = [done, False]
    tried = [await refused.write(), await refused.write()]
    refused.note(PUSH)
    tried += [await refused.write(), await refused.write(), await refused.write()]
    (row,) = await rows(servers[1])

    assert tried == [False, False, True, True, False]
    assert row.when.times == 3


async def test_the_newest_rows_of_each_user_and_repository_are_kept(servers: tuple[Metadata, Metadata]) -> None:
    """One user fills neither the table nor a repository, and does not remove what others did."""
    refused = RefusedPushes(servers[0], Bounds(owner=3, repository=4, total=6))
    refused.note(PUSH)
    await refused.write()
    for number in range(9):
        refused.note(PUSH._replace(owner="mallory", actor="mallory", repository=f"made/up{number}"))
        await refused.write()
    of_mallory = [row.push.repository for row in await rows(servers[1]) if row.push.owner == "mallory"]
    survived = PUSH in {row.push for row in await rows(servers[1])}
    for number in range(5):
        refused.note(PUSH._replace(owner=f"user{number}"))
        await refused.write()
    of_repository = [row for row in await rows(servers[1]) if row.push.repository == PUSH.repository]

    assert of_mallory == ["made/up8", "made/up7", "made/up6"]
    assert survived
    assert [row.push.owner for row in of_repository] == ["user4", "user3", "user2", "user1"]
    assert len(await rows(servers[1])) == 6


async def test_a_flood_of_one_user_in_a_repository_removes_only_its_own_rows(
    servers: tuple[Metadata, Metadata],
) -> None:
    """An attacker who may fill a repository's rows alone does not push out what others did there, whatever the order."""
    refused = RefusedPushes(servers[0], Bounds(owner=5, repository=5, total=50))
    for owner in ("ci", "release"):
        refused.note(PUSH._replace(owner=owner, actor=owner))
        await refused.write()
    for number in range(9):
        refused.note(PUSH._replace(owner="mallory", actor="mallory", tag=f"t{number}"))
        await refused.write()
    found = [(row.push.owner, row.push.tag) for row in await rows(servers[1])]

    assert found == [("mallory", "t8"), ("mallory", "t7"), ("mallory", "t6"), ("release", "1.4.2"), ("ci", "1.4.2")]


async def test_a_group_of_users_does_not_push_out_the_rows_of_others(servers: tuple[Metadata, Metadata]) -> None:
    """If a group of users fills the whole table, each of them keeps as many rows as the others, and the users beside them keep all."""
    refused = RefusedPushes(servers[0], Bounds(owner=10, repository=100, total=20))
    victims = [PUSH._replace(owner="ci", tag=f"v{number}") for number in range(3)]
    for push in victims:
        refused.note(push)
    await refused.write()
    for number in range(10):
        for mallory in range(4):
            refused.note(PUSH._replace(owner=f"mallory{mallory}", repository=f"made/up{mallory}", tag=f"t{number}"))
        await refused.write()
    found = [row.push for row in await rows(servers[1])]
    kept = Counter(push.owner for push in found)

    assert {*victims} <= {*found}
    assert len(found) <= 20
    assert {kept[f"mallory{each}"] for each in range(4)} == {4}
    assert {push.tag for push in found if push.owner == "mallory0"} == {"t9", "t8", "t7", "t6"}


async def test_a_flood_of_one_user_is_dropped_and_that_of_all_is_bounded(servers: tuple[Metadata, Metadata]) -> None:
    """A user writes a number of rows in a minute, repeats not counted, and what waits in memory has a limit."""
    now_s = [0.0]
    refused = RefusedPushes(servers[0], monotonic=lambda: now_s[0])
    for number in range(MAX_PER_MINUTE + 50):
        refused.note(PUSH._replace(tag=f"t{number}"))
        refused.note(PUSH._replace(tag="t0"))
    refused.note(PUSH._replace(owner="other"))
    while await refused.write():
        pass
    first = await rows(servers[1])
    now_s[0] = 61.0
    refused.note(PUSH._replace(tag="later", repository="shop/other"))
    for number in range(2 * MAX_WAITING):
        refused.note(PUSH._replace(owner=f"u{number}"))
    transactions = 0
    while await refused.write():
        transactions += 1

    assert len(first) == MAX_PER_MINUTE + 1
    assert {row.push.owner for row in first} == {"ci", "other"}
    assert transactions == 5
    assert "later" in {row.push.tag for row in await rows(servers[1])}


async def test_many_users_at_once_keep_no_push_of_another_one_from_being_recorded(
    servers: tuple[Metadata, Metadata],
) -> None:
    """While more pushes wait than are written, those of the users who have the most are dropped."""
    refused = RefusedPushes(servers[0])
    for number in range(MAX_PER_MINUTE):
        for owner in range(10):
            refused.note(PUSH._replace(owner=f"group-{owner}", tag=f"1.{number}", repository=f"group/{owner}"))
    refused.note(PUSH._replace(owner="alone"))
    while await refused.write():
        pass
    found = Counter(row.push.owner for row in await rows(servers[1]))

    assert found["alone"] == 1
    assert found.total() == MAX_WAITING
    assert max(found.values()) <= MAX_WAITING // 10 + 1


async def test_old_rows_are_deleted(servers: tuple[Metadata, Metadata]) -> None:
    """A row goes ninety days after its last push, and not before."""
    refused = RefusedPushes(servers[0])
    refused.note(PUSH)
    await refused.write()
    (row,) = await rows(servers[0])
    early = await servers[0].write(partial(expire_refused, now_us=row.when.last_us + KEPT_US))
    late = await servers[0].write(partial(expire_refused, now_us=row.when.last_us + KEPT_US + 1))

    assert (early, late) == (0, 1)
    assert await rows(servers[1]) == []


async def test_pages_have_each_row_once_whatever_happens_between_them(servers: tuple[Metadata, Metadata]) -> None:
    """A page goes on behind the last row of the one before it, by repository, tag and time, also in the middle of a batch."""
    refused = RefusedPushes(servers[0])
    for number in range(7):
        refused.note(PUSH._replace(tag=f"t{number % 2}", pushed=DIGESTS[number % 3], owner=str(number)))
    await refused.write()
    seen, at = [], NEWEST
    while True:
        page = await refused.of_repository("shop/app", "", before=at, since_us=0, limit=2)
        seen += page.rows
        if not page.more:
            break
        at = Position(page.rows[-1].when.last_us, page.rows[-1].id)
    of_tag = await refused.of_repository("shop/app", "t1", before=NEWEST, since_us=0, limit=10)
    since = await refused.of_repository("shop/app", "", before=NEWEST, since_us=seen[0].when.last_us + 1, limit=10)
    other = await refused.of_repository("shop/other", "", before=NEWEST, since_us=0, limit=10)

    assert len({row.id for row in seen}) == len(seen) == 7
    assert [row.when.last_us for row in seen] == sorted((row.when.last_us for row in seen), reverse=True)
    assert {row.push.tag for row in of_tag.rows} == {"t1"}
    assert (since.rows, other.rows) == ([], [])
