"""The ID mappings of a rootless store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.engines.subordinate_ids import id_maps

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders to others")

USER = 12345


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in the home of user `shop`, on a disk whose /etc lists that user."""
    folder = tmp_path / "disk/home/shop/storage"
    folder.mkdir(parents=True)
    os.chown(folder, USER, USER + 1)
    etc = tmp_path / "disk/etc"
    etc.mkdir()
    (etc / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nshop:x:{USER}:{USER}::/home/shop:/bin/sh\n")
    (etc / "subuid").write_text("other:100000:65536\nshop:200000:65536\nnonsense\n")
    (etc / "subgid").write_text(f"{USER}:300000:1000\nshop:400000:1000\n")
    return folder


def test_the_ranges_of_subuid_and_subgid_are_used(store: Path) -> None:
    """Ranges are read by user name or number; the user is root inside, and the ranges follow in order."""
    assert id_maps(store) == (
        ((0, USER, 1), (1, 200000, 65536)),
        ((0, USER + 1, 1), (1, 300000, 1000), (1001, 400000, 1000)),
        True,
    )


def test_a_store_of_root_has_no_mappings(store: Path) -> None:
    """In a store of root, IDs inside equal those outside."""
    os.chown(store, 0, 0)

    assert id_maps(store) is None


def test_a_user_without_ranges_is_only_root(store: Path) -> None:
    """A user without ranges has only the mapping of root, and the result says that ranges are unknown."""
    (store.parents[2] / "etc/subuid").unlink()

    maps = id_maps(store)

    assert maps is not None
    assert (maps[0], maps[2]) == (((0, USER, 1),), False)


@pytest.mark.parametrize("how", ["in-the-home", "a-link", "of-the-user"])
def test_ranges_written_by_the_user_are_ignored(store: Path, how: str) -> None:
    """A file of ranges that the user owns is ignored, because it could give files to any user."""
    etc = store.parents[2] / "etc"
    if how == "in-the-home":
        mine = store.parent / "etc"
        mine.mkdir()
        (mine / "passwd").write_text(f"shop:x:{USER}:0::/:/bin/sh\n")
        os.chown(mine / "passwd", USER, 0)
        (mine / "subuid").write_text("shop:0:1000\n")
        expected: tuple[tuple[int, int, int], ...] = ((0, USER, 1), (1, 200000, 65536))
    else:
        other = store.parent / "subuid"
        other.write_text("shop:0:1000\n")
        os.chown(other, USER, 0)
        (etc / "subuid").unlink()
        if how == "a-link":
            (etc / "subuid").symlink_to(other)
        else:
            other.rename(etc / "subuid")
        expected = ((0, USER, 1),)

    maps = id_maps(store)

    assert maps is not None
    assert maps[0] == expected
