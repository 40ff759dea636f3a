"""The database of kept images: durable, private, and validated when read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.client.state import ClientState, StateUnusable
from boltseal.host.kept_images import KeepReason, KeptBusy, KeptImage, KeptImages, Proof, PullRecord
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.small_disk import small_disk

ENGINE = "unix:///run/docker.sock"
APP = Reference.parse("localhost:5000/shop/app:latest")
FIRST, SECOND = Digest.of(b"one"), Digest.of(b"two")
KEPT = KeptImage(APP, FIRST, SECOND, "application/json", Tag("boltseal-keep-1"), 1000)


@pytest.fixture
def store(tmp_path: Path) -> KeptImages:
    """A store in a folder that does not exist."""
    return KeptImages(ClientState(tmp_path / "state"))


def test_a_missing_store_is_empty(store: KeptImages, tmp_path: Path) -> None:
    """Reading a missing store returns no rows and creates no file."""
    assert (store.kept(ENGINE), store.pulls(ENGINE, FIRST), store.ran(ENGINE), store.held(ENGINE), store.locks()) == (
        (),
        (),
        {},
        (),
        (),
    )
    assert not (tmp_path / "state").exists()


def test_rows_are_read_back(store: KeptImages) -> None:
    """A row that is read equals the one written, in every field."""
    copied = replace(KEPT, copy=Reference.parse(f"registry.example.com/app@{SECOND}"), until_us=5000, keep=3)
    came = PullRecord(FIRST, SECOND, "localhost:5000/shop/app", "application/json", Proof.MANIFEST, 900)
    store.keep(ENGINE, copied)
    store.record_pull(ENGINE, came)
    store.saw_running(ENGINE, [FIRST], 1100)
    store.hold(ENGINE, KeepReason(FIRST, "release shop/1", None))
    store.know_lock(Path("/srv/shop/boltseal.lock"))

    assert store.kept(ENGINE) == store.kept(ENGINE, APP) == (copied,)
    assert store.pulls(ENGINE, FIRST) == (came,)
    assert store.ran(ENGINE) == {FIRST: 1100}
    assert store.held(ENGINE) == (KeepReason(FIRST, "release shop/1", None),)
    assert store.locks() == (Path("/srv/shop/boltseal.lock"),)
    assert copied.keep_name == Reference.parse("localhost:5000/shop/app:boltseal-keep-1")


def test_a_path_that_is_not_utf8_is_stored(store: KeptImages) -> None:
    """A folder's path of arbitrary bytes is stored and read back."""
    path = Path(os.fsdecode(b"/srv/\xff shop%/boltseal.lock"))
    store.know_lock(path)

    assert store.locks() == (path,)


@pytest.mark.parametrize("path", ["boltseal.lock", "", "/srv/%00"])
def test_an_invalid_path_is_refused(store: KeptImages, path: str) -> None:
    """A row with an invalid path is refused."""
    store.know_lock(Path("/srv/boltseal.lock"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("UPDATE locks SET path = ?", (path,))

    with pytest.raises(StateUnusable, match="is not an absolute path"):
        store.locks()


def test_rows_are_separate_per_engine_and_name(store: KeptImages) -> None:
    """Rows of one engine and tag are deleted without affecting others."""
    other = replace(KEPT, name=replace(APP, tag=Tag("1.4")))
    store.keep(ENGINE, KEPT)
    store.keep(ENGINE, other)
    store.keep("tcp://other:2375", KEPT)
    store.forget(ENGINE, KEPT)

    assert store.kept(ENGINE) == (other,)
    assert store.kept("tcp://other:2375", APP) == (KEPT,)


def test_keeping_an_image_again_only_adds(store: KeptImages) -> None:
    """Keeping an image again preserves its digest, copy and the later time limit."""
    copy = Reference.parse(f"registry.example.com/app@{SECOND}")
    store.keep(ENGINE, replace(KEPT, until_us=5000, copy=copy))
    store.keep(ENGINE, replace(KEPT, digest=None, kept_us=2000, until_us=3000))
    store.keep(ENGINE, replace(KEPT, digest=None, kept_us=2000, until_us=None))
    first = store.kept(ENGINE)
    store.keep(ENGINE, replace(KEPT, kept_us=3000, until_us=9000))

    assert first == (replace(KEPT, kept_us=2000, until_us=5000, copy=copy),)
    assert store.kept(ENGINE)[0].until_us == 9000


def test_releasing_a_hold_removes_one_or_all_of_a_reason(store: KeptImages) -> None:
    """Releasing a hold removes one image's hold, or all holds of one reason."""
    for image in (FIRST, SECOND):
        for reason in ("release shop/1", "release shop/2"):
            store.hold(ENGINE, KeepReason(image, reason, None))
    store.let_go(ENGINE, "release shop/1", [FIRST])
    store.let_go(ENGINE, "release shop/2")

    assert store.held(ENGINE) == (KeepReason(SECOND, "release shop/1", None),)


def test_the_file_is_private(store: KeptImages, tmp_path: Path) -> None:
    """Other users can't read the file, which lists the user's images."""
    store.keep(ENGINE, KEPT)

    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_symbolic_link_in_its_place_is_not_followed(store: KeptImages, tmp_path: Path) -> None:
    """A symbolic link in the file's place is not followed, because an attacker could redirect the write."""
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").touch()
    store.path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StateUnusable):
        store.keep(ENGINE, KEPT)
    assert (tmp_path / "elsewhere").read_bytes() == b""


@pytest.mark.parametrize(
    "bytes_", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 4080], ids=["text", "header"]
)
def test_a_file_that_is_no_database_is_reported(store: KeptImages, bytes_: bytes) -> None:
    """A file that is no database is reported, with the way to find the images on the engine."""
    store.keep(ENGINE, KEPT)
    store.path.write_bytes(bytes_)

    for call in (lambda: store.kept(ENGINE), lambda: store.keep(ENGINE, KEPT)):
        with pytest.raises(StateUnusable, match="move it away: kept images keep their keep tags"):
            call()
    assert store.path.read_bytes() == bytes_


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 2", "PRAGMA user_version = 0"], ids=["newer", "foreign"])
def test_another_version_is_refused(store: KeptImages, statement: str) -> None:
    """A file of another version is refused and left unchanged."""
    store.keep(ENGINE, KEPT)
    with closing(sqlite3.connect(store.path)) as database:
        database.execute(statement)

    for call in (lambda: store.kept(ENGINE), lambda: store.keep(ENGINE, KEPT)):
        with pytest.raises(StateUnusable, match="expected 1"):
            call()


@pytest.mark.parametrize(
    "change",
    [
        "name = 'Shop/App'",
        "name = 'localhost:5000/shop/app'",
        f"name = 'localhost:5000/shop/app:1@{FIRST}'",
        "image = 'sha256:../../etc'",
        "digest = 'sha256:12'",
        "tag = '-x'",
        "copy = 'http://evil'",
    ],
)
def test_a_malformed_row_is_refused(store: KeptImages, change: str) -> None:
    """A malformed row is refused, and no action is derived from it."""
    store.keep(ENGINE, KEPT)
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute(f"UPDATE kept SET {change}")  # noqa: S608 - constants of this test

    with pytest.raises(StateUnusable, match="has an invalid row"):
        store.kept(ENGINE)


def test_an_empty_file_is_like_a_missing_one(store: KeptImages) -> None:
    """An empty file, left by an interrupted creation, is treated as missing."""
    store.path.parent.mkdir()
    store.path.touch()
    empty = store.kept(ENGINE)
    store.keep(ENGINE, KEPT)

    assert (empty, store.kept(ENGINE)) == ((), (KEPT,))


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """Each write is one transaction, so that a full disk changes nothing."""
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        store = KeptImages(ClientState(disk / "state"))
        store.keep(ENGINE, KEPT)
        with pytest.raises(StateUnusable, match="disk is full; free some space, or set another folder"):
            store.saw_running(ENGINE, [Digest.of(str(number).encode()) for number in range(5000)], 1100)

        assert (store.ran(ENGINE), store.kept(ENGINE)) == ({}, (KEPT,))


async def test_only_one_task_at_a_time_holds_the_lock(store: KeptImages) -> None:
    """A task that waits for the lock does not block the event loop."""
    order: list[str] = []

    async def give(who: str) -> None:
        async with store.tagging_lock():
            order.append(f"{who} in")
            await asyncio.sleep(0.01)  # the work of a task that has the lock
            order.append(f"{who} out")

    await asyncio.gather(give("a"), give("b"), give("c"))

    assert [order[at][0] == order[at + 1][0] for at in (0, 2, 4)] == [True] * 3


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_lock_that_is_not_released_is_reported(tmp_path: Path) -> None:
    """After a time limit, the error names the process that has the lock."""
    store = KeptImages(ClientState(tmp_path / "state"), timeout_s=0.1)
    async with store.tagging_lock():
        before = open_files()
        with pytest.raises(KeptBusy, match="another boltseal that tags images"):
            async with store.tagging_lock():
                raise AssertionError
        assert open_files() == before


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    """A file with too many rows is refused without reading them."""
    store = KeptImages(ClientState(tmp_path / "state"), max_rows=1)
    store.saw_running(ENGINE, [FIRST, SECOND], 1)

    with pytest.raises(StateUnusable, match=r"too many rows .expected at most 1"):
        store.ran(ENGINE)
