"""Metadata that was written to harm who reads it: such an image is reported, the rest goes on, and nothing outside is read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.scrub.find import store_at
from boltseal.scrub.report import Report, Status
from boltseal.scrub.scrub import Wanted, scrub
from tests.scrub.making import DockerStore, split_of


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with a good image, whose two layers are its own."""
    made = DockerStore.at(tmp_path)
    made.image("good:1", {"etc/good": b"good"}, {"bin/good": b"good"})
    return made


def checked(store: DockerStore) -> dict[str, Report]:
    found = scrub(store_at(store.root), Wanted(), lambda *_: None)
    return {each.ref: each for each in found}


def diff_ids(*named: object) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": named}}).encode()


CONFIGS: dict[str, bytes] = {
    "no-json": b"\x00\x01",
    "cut-off": b'{"rootfs":{"diff_ids":["sha256:',
    "deeply-nested": b'{"rootfs":' * 100_000,
    "deep-lists": b'{"rootfs":{"diff_ids":' + b"[" * 500_000,
    "other-types": diff_ids(1, None, {}),
    "a-path-for-a-digest": diff_ids("../../../../etc"),
    "another-algorithm": diff_ids("md5:" + "a" * 32),
    "a-million-layers": diff_ids(*(["sha256:" + "a" * 64] * 100_000)),
    "a-layer-that-is-not-there": diff_ids("sha256:" + "a" * 64),
    "a-huge-number": b'{"rootfs":{"diff_ids":[' + b"9" * 1_000_000 + b"]}}",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_reported_and_the_other_image_is_checked(store: DockerStore, name: str) -> None:
    """Whatever it is made of."""
    store.config("bad:1", CONFIGS[name])

    found = checked(store)

    assert found["bad:1"].status is Status.DIFFERS
    assert found["good:1"].status is Status.HOLDS


def test_a_config_of_gigabytes_is_not_read(store: DockerStore) -> None:
    """A file with a hole costs nothing to make."""
    bad = store.config("bad:1", b"{}")
    os.truncate(store.root / "image/overlay2/imagedb/content/sha256" / bad.hex, 8 << 30)

    found = checked(store)

    assert found["bad:1"].status is Status.DIFFERS
    assert "more than" in found["bad:1"].differences[0].got


def test_a_list_of_names_that_is_a_bomb_leaves_the_images(store: DockerStore) -> None:
    """Then nobody knows their names, and they are checked by their IDs."""
    (store.root / "image/overlay2/repositories.json").write_bytes(b'{"Repositories":' + b"{" * 1_000_000)

    found = scrub(store_at(store.root), Wanted(), lambda *_: None)

    assert {(each.what, each.status) for each in found} == {("store", Status.UNKNOWN), ("image", Status.HOLDS)}


def bomb(store: DockerStore, layer: int = 0) -> Path:
    """The tar-split of a layer of the good image."""
    folder = store.layer(layer).parent.name
    (found,) = [
        each
        for each in store.root.glob("image/overlay2/layerdb/sha256/*/cache-id")
        if each.read_text() == folder
    ]  # fmt: skip
    return found.with_name("tar-split.json.gz")


Lines = list[dict[str, object]]


def without_an_end(lines: Lines) -> None:
    lines[0]["payload"] = "A" * 50_000_000


def leads_out(lines: Lines) -> None:
    lines[1]["name"] = "../../../../../../etc/passwd"


def absurd_size(lines: Lines) -> None:
    lines[-2]["size"] = 1 << 63


def negative_size(lines: Lines) -> None:
    lines[-2]["size"] = -1


def unknown_type(lines: Lines) -> None:
    lines[0]["type"] = 7


def no_base64(lines: Lines) -> None:
    lines[0]["payload"] = "?"


@pytest.mark.parametrize(
    "change", [leads_out, absurd_size, negative_size, unknown_type, no_base64, without_an_end], ids=lambda f: f.__name__
)
def test_a_hostile_tar_split_is_reported(store: DockerStore, change: Callable[[Lines], None]) -> None:
    """Its layer is told of, and the check ends."""
    path = bomb(store)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    change(lines)
    path.write_bytes(split_of(lines))

    report = checked(store)["good:1"]

    assert report.status is Status.DIFFERS


def test_a_tar_split_of_zeros_without_end_is_reported(store: DockerStore) -> None:
    """A thousand times as long when it is unpacked, and a single line."""
    bomb(store).write_bytes(gzip.compress(b"0" * 100_000_000))

    assert checked(store)["good:1"].status is Status.DIFFERS


@pytest.mark.parametrize("what", ["diff", "cache-id", "tar-split.json.gz"])
def test_a_link_in_place_of_a_file_is_not_followed(store: DockerStore, tmp_path: Path, what: str) -> None:
    """A copy of the true file lies outside: it is not read."""
    path = bomb(store).with_name(what)
    shutil.copy(path, tmp_path / "outside")
    path.unlink()
    path.symlink_to(tmp_path / "outside")

    assert checked(store)["good:1"].status is Status.DIFFERS


@pytest.mark.parametrize("up", ["overlay2", "image/overlay2/layerdb", "image/overlay2/imagedb/content"])
def test_a_link_in_place_of_a_folder_on_the_way_is_not_followed(store: DockerStore, tmp_path: Path, up: str) -> None:
    """A copy of the true folder lies outside."""
    shutil.move(store.root / up, tmp_path / "outside")
    (store.root / up).symlink_to(tmp_path / "outside")

    assert all(each.status is not Status.HOLDS for each in checked(store).values())


def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(store: DockerStore) -> None:
    """Opening a pipe waits for its other end."""
    for name in ("diff", "tar-split.json.gz"):
        path = bomb(store).with_name(name)
        path.unlink()
        os.mkfifo(path)

    assert checked(store)["good:1"].status is Status.DIFFERS


def test_names_that_would_write_to_a_terminal_are_shown_as_text(store: DockerStore) -> None:
    """A file's name may hold anything but a slash."""
    (store.layer() / "etc" / "\x1b[2Jevil\n").write_bytes(b"x")

    (found,) = [each for each in checked(store)["good:1"].differences if "evil" in each.path]

    assert found.path == "etc/\\x1b[2Jevil\\n"


def test_a_folder_of_very_many_names_is_counted_and_only_some_are_told(store: DockerStore) -> None:
    """The report stays readable, and its count is right."""
    for number in range(1500):
        (store.layer() / "etc" / f"evil{number}").touch()

    report = checked(store)["good:1"]

    assert report.count >= 1500
    assert len(report.differences) <= 1010
