"""Attributes that entries of a tar leave on files, compared with those that the kernel gives, and paths through links."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from boltseal.engines.safe_open import SafeFolder
from boltseal.host.scrub.attributes import Attributes
from boltseal.host.scrub.entry_attributes import (
    ACCESS_LIST,
    DEFAULT_LIST,
    MAX_KEPT_BYTES,
    EntryAttributes,
    gives_rights,
    inherited,
    mode_of_list,
)
from boltseal.host.scrub.tar_header import FIFO, FOLDER, REGULAR, SYMLINK, TarMalformed
from boltseal.host.scrub.tar_links import TarLinks

UNNAMED = 0xFFFFFFFF


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Return a list of entries: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def listed(user: int, group: int, others: int, *, named: tuple[int, int] | None = None, mask: int = 7) -> bytes:
    """Return a list for a mode; `named`: id and permissions of one more user."""
    more = [] if named is None else [(0x02, named[1], named[0])]
    last = [] if named is None else [(0x10, mask, UNNAMED)]
    return access_list((0x01, user, UNNAMED), *more, (0x04, group, UNNAMED), *last, (0x20, others, UNNAMED))


NAMED, MINIMAL = listed(7, 5, 5, named=(1000, 6)), listed(7, 5, 0)


def create(path: Path, kind: bytes) -> None:
    """Create a file of a type."""
    if kind == FOLDER:
        path.mkdir()
    elif kind == FIFO:
        os.mkfifo(path)
    elif kind == SYMLINK:
        path.symlink_to("target")
    else:
        path.touch()


@pytest.mark.parametrize("default", [NAMED, MINIMAL], ids=["named", "minimal"])
@pytest.mark.parametrize("kind", [REGULAR, FOLDER, FIFO, SYMLINK])
@pytest.mark.parametrize("mode", [0o755, 0o600, 0o4711])
def test_a_new_file_inherits_as_from_the_kernel(tmp_path: Path, default: bytes, kind: bytes, mode: int) -> None:
    """A file that is created in a folder with a default list, and then gets a mode, has the expected attributes."""
    os.setxattr(tmp_path, DEFAULT_LIST, default)
    path = tmp_path / "new"
    create(path, kind)
    if kind != SYMLINK:
        path.chmod(mode)
    with SafeFolder(tmp_path) as tree:
        attributes = Attributes(tree)
        expected = inherited(default, kind)

        assert attributes.differences(b"new", expected, path.lstat(), attributes.at(b"new")) == []
        assert set(attributes.names(b"new", attributes.at(b"new"))) == {name.decode() for name in expected}


def test_a_list_sets_the_mode_as_in_the_kernel(tmp_path: Path) -> None:
    """The permissions of a mode that a list sets are those that the kernel sets."""
    for value in (NAMED, MINIMAL, listed(4, 7, 1, named=(5, 7), mask=2)):
        path = tmp_path / "file"
        path.touch()
        os.setxattr(path, ACCESS_LIST, value)

        assert mode_of_list(value) == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("value", "gives"),
    [
        (MINIMAL, False),
        (NAMED, True),
        (listed(7, 5, 5, named=(1000, 5)), False),
        (listed(7, 5, 5, named=(1000, 7), mask=5), False),
        (listed(7, 0, 0, named=(1000, 4)), True),
        (access_list((0x08, 7, 5), (0x10, 7, UNNAMED), (0x20, 5, UNNAMED)), True),
        (b"no list", False),
    ],
)
def test_a_list_gives_rights_beyond_the_mode(value: bytes, *, gives: bool) -> None:
    """A list gives rights if a named user or group may do what all others may not, and the mask allows it."""
    assert gives_rights(value) is gives


def test_the_order_of_entries_counts() -> None:
    """Only what is created after a folder's default list inherits it, and a folder keeps what earlier entries set."""
    attributes = EntryAttributes()
    default, mine = {DEFAULT_LIST.encode(): NAMED}, {b"user.mine": b"1"}

    before = attributes.of(b"d/a", REGULAR, {}, exists=False)
    attributes.of(b"d", FOLDER, default, exists=True)
    after = attributes.of(b"d/b", REGULAR, mine, exists=False)
    again = attributes.of(b"d", FOLDER, mine, exists=True)
    attributes.forget(b"d")

    assert before == {}
    assert after == {ACCESS_LIST.encode(): NAMED, **mine}
    assert again == default | mine
    assert attributes.of(b"d/c", REGULAR, {}, exists=False) == {}


def test_endless_attributes_of_folders_are_refused() -> None:
    """A tar with endless attributes of folders is refused, since it could fill the memory."""
    attributes, large = EntryAttributes(), {b"user.x": bytes(MAX_KEPT_BYTES // 16)}
    for number in range(15):
        attributes.of(b"%d" % number, FOLDER, large, exists=False)

    with pytest.raises(TarMalformed, match="bytes of attributes"):
        attributes.of(b"last", FOLDER, large, exists=False)


@pytest.mark.parametrize(
    ("targets", "folder", "path"),
    [
        ({b"lib": b"usr/lib"}, b"lib/deep", b"usr/lib/deep"),
        ({b"lib": b"/usr/lib"}, b"lib", b"usr/lib"),
        ({b"a/l": b"../b"}, b"a/l/c", b"b/c"),
        ({b"a": b"b", b"b": b"c"}, b"a/x", b"c/x"),
        ({b"up": b"../../.."}, b"up/etc", b"etc"),
        ({b"lib": b"usr/lib"}, b"library", b"library"),
        ({b"lib": b"./usr//lib/."}, b"x/lib", b"x/lib"),
    ],
)
def test_a_path_through_links_is_that_of_their_targets(targets: dict[bytes, bytes], folder: bytes, path: bytes) -> None:
    """A path through symbolic links is resolved within the layer."""
    links = TarLinks()
    links.targets.update(targets)

    assert links.resolved(folder) == path


@pytest.mark.parametrize("targets", [{b"a": b"a"}, {b"a": b"b", b"b": b"a"}, {b"a": b"a/" * 2000}])
def test_a_cycle_of_links_is_refused(targets: dict[bytes, bytes]) -> None:
    """Links that resolve to each other for ever are refused."""
    links = TarLinks()
    links.targets.update(targets)

    with pytest.raises(TarMalformed, match="symbolic links"):
        links.resolved(b"a/b")
