"""What is kept on engines, remembered: durable, the user's own, and hostile until it was read."""

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
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
KEPT = KeptImage(APP, ONE, TWO, "application/json", Tag("boltseal-keep-1"), 1000)


@pytest.fixture
def store(tmp_path: Path) -> KeptImages:
    """A store in a folder that is not there yet."""
    return KeptImages(ClientState(tmp_path / "state"))


def test_what_was_never_written_is_empty(store: KeptImages, tmp_path: Path) -> None:
    """Reading makes nothing."""
    assert (store.kept(ENGINE), store.pulls(ENGINE, ONE), store.ran(ENGINE), store.held(ENGINE), store.locks()) == (
        (),
        (),
        {},
        (),
        (),
    )
    assert not (tmp_path / "state").exists()


def test_what_is_written_is_read(store: KeptImages) -> None:
    """Every word of it."""
    copied = replace(KEPT, copy=Reference.parse(f"registry.example.com/app@{TWO}"), until_us=5000, keep=3)
    came = PullRecord(ONE, TWO, "localhost:5000/shop/app", "application/json", Proof.MANIFEST, 900)
    store.keep(ENGINE, copied)
    store.record_pull(ENGINE, came)
    store.saw_running(ENGINE, [ONE], 1100)
    store.hold(ENGINE, KeepReason(ONE, "release shop/1", None))
    store.know_lock(Path("/srv/shop/boltseal.lock"))

    assert store.kept(ENGINE) == store.kept(ENGINE, APP) == (copied,)
    assert store.pulls(ENGINE, ONE) == (came,)
    assert store.ran(ENGINE) == {ONE: 1100}
    assert store.held(ENGINE) == (KeepReason(ONE, "release shop/1", None),)
    assert store.locks() == (Path("/srv/shop/boltseal.lock"),)
    assert copied.keep_name == Reference.parse("localhost:5000/shop/app:boltseal-keep-1")


def test_a_path_of_any_bytes(store: KeptImages) -> None:
    """Nobody has to call folders in UTF-8."""
    path = Path(os.fsdecode(b"/srv/\xff shop%/boltseal.lock"))
    store.know_lock(path)

    assert store.locks() == (path,)


@pytest.mark.parametrize("path", ["boltseal.lock", "", "/srv/%00"])
def test_a_path_that_can_not_be_one(store: KeptImages, path: str) -> None:
    """Nothing is read there."""
    store.know_lock(Path("/srv/boltseal.lock"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("UPDATE locks SET path = ?", (path,))

    with pytest.raises(StateUnusable, match="is not an absolute path"):
        store.locks()


def test_rows_of_engines_and_names_are_apart(store: KeptImages) -> None:
    """What is forgotten is forgotten there."""
    other = replace(KEPT, name=replace(APP, tag=Tag("1.4")))
    store.keep(ENGINE, KEPT)
    store.keep(ENGINE, other)
    store.keep("tcp://other:2375", KEPT)
    store.forget(ENGINE, KEPT)

    assert store.kept(ENGINE) == (other,)
    assert store.kept("tcp://other:2375", APP) == (KEPT,)


def test_a_promise_grows_and_what_is_known_stays(store: KeptImages) -> None:
    """Kept again without a digest, a copy or so long a time: none of them is lost."""
    copy = Reference.parse(f"registry.example.com/app@{TWO}")
    store.keep(ENGINE, replace(KEPT, until_us=5000, copy=copy))
    store.keep(ENGINE, replace(KEPT, digest=None, kept_us=2000, until_us=3000))
    store.keep(ENGINE, replace(KEPT, digest=None, kept_us=2000, until_us=None))
    first = store.kept(ENGINE)
    store.keep(ENGINE, replace(KEPT, kept_us=3000, until_us=9000))

    assert first == (replace(KEPT, kept_us=2000, until_us=5000, copy=copy),)
    assert store.kept(ENGINE)[0].until_us == 9000


def test_a_reason_lets_go_of_some_or_of_all(store: KeptImages) -> None:
    """Each image by itself."""
    for image in (ONE, TWO):
        for reason in ("release shop/1", "release shop/2"):
            store.hold(ENGINE, KeepReason(image, reason, None))
    store.let_go(ENGINE, "release shop/1", [ONE])
    store.let_go(ENGINE, "release shop/2")

    assert store.held(ENGINE) == (KeepReason(TWO, "release shop/1", None),)


def test_the_file_is_the_users_own(store: KeptImages, tmp_path: Path) -> None:
    """Nobody else reads which images somebody runs."""
    store.keep(ENGINE, KEPT)

    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_link_in_its_place_is_not_followed(store: KeptImages, tmp_path: Path) -> None:
    """Whoever may write the folder could else have us write elsewhere."""
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").touch()
    store.path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StateUnusable):
        store.keep(ENGINE, KEPT)
    assert (tmp_path / "elsewhere").read_bytes() == b""


@pytest.mark.parametrize(
    "bytes_", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 4080], ids=["text", "header"]
)
def test_a_file_that_is_no_database(store: KeptImages, bytes_: bytes) -> None:
    """Says where the images are all the same."""
    store.keep(ENGINE, KEPT)
    store.path.write_bytes(bytes_)

    for call in (lambda: store.kept(ENGINE), lambda: store.keep(ENGINE, KEPT)):
        with pytest.raises(StateUnusable, match="move it away: kept images keep their keep tags"):
            call()
    assert store.path.read_bytes() == bytes_


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 2", "PRAGMA user_version = 0"], ids=["newer", "foreign"])
def test_another_format_is_refused(store: KeptImages, statement: str) -> None:
    """And left as it is."""
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
        f"name = 'localhost:5000/shop/app:1@{ONE}'",
        "image = 'sha256:../../etc'",
        "digest = 'sha256:12'",
        "tag = '-x'",
        "copy = 'http://evil'",
    ],
)
def test_a_row_that_can_not_be_one(store: KeptImages, change: str) -> None:
    """Nothing is done by it."""
    store.keep(ENGINE, KEPT)
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute(f"UPDATE kept SET {change}")  # noqa: S608 - its words are above

    with pytest.raises(StateUnusable, match="has an invalid row"):
        store.kept(ENGINE)


def test_a_file_that_was_made_and_not_filled(store: KeptImages) -> None:
    """Cut off at its beginning: it is as if it were not there."""
    store.path.parent.mkdir()
    store.path.touch()
    empty = store.kept(ENGINE)
    store.keep(ENGINE, KEPT)

    assert (empty, store.kept(ENGINE)) == ((), (KEPT,))


def test_a_full_disk_leaves_what_was(tmp_path: Path) -> None:
    """One transaction each: all of it, or nothing."""
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        store = KeptImages(ClientState(disk / "state"))
        store.keep(ENGINE, KEPT)
        with pytest.raises(StateUnusable, match="disk is full; free some space, or set another folder"):
            store.saw_running(ENGINE, [Digest.of(str(number).encode()) for number in range(5000)], 1100)

        assert (store.ran(ENGINE), store.kept(ENGINE)) == ({}, (KEPT,))


async def test_names_are_given_by_one_at_a_time(store: KeptImages) -> None:
    """Tasks of one process too; whoever waits does not stop the other."""
    order: list[str] = []

    async def give(who: str) -> None:
        async with store.tagging_lock():
            order.append(f"{who} in")
            await asyncio.sleep(0.01)
            order.append(f"{who} out")

    await asyncio.gather(give("a"), give("b"), give("c"))

    assert [order[at][0] == order[at + 1][0] for at in (0, 2, 4)] == [True] * 3


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_somebody_who_does_not_let_go(tmp_path: Path) -> None:
    """Is told of after a while."""
    store = KeptImages(ClientState(tmp_path / "state"), timeout_s=0.1)
    async with store.tagging_lock():
        before = open_files()
        with pytest.raises(KeptBusy, match="another boltseal that tags images"):
            async with store.tagging_lock():
                raise AssertionError
        assert open_files() == before


def test_more_rows_than_anybody_has(tmp_path: Path) -> None:
    """Are not read."""
    store = KeptImages(ClientState(tmp_path / "state"), max_rows=1)
    store.saw_running(ENGINE, [ONE, TWO], 1)

    with pytest.raises(StateUnusable, match=r"too many rows .expected at most 1"):
        store.ran(ENGINE)
