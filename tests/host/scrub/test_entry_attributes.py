"""Attributes that entries of a tar leave on files, compared with those that the kernel gives, and paths through links."""

from __future__ import annotations

import os
import stat
import struct
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.engines.safe_open import SafeFolder
from boltseal.host.scrub.attributes import Attributes
from boltseal.host.scrub.entry_attributes import (
    ACCESS_LIST,
    DEFAULT_LIST,
    MAX_KEPT_BYTES,
    EntryAttributes,
    changes_rights,
    inherited,
    list_entries,
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


RIGHTS = st.integers(0, 7)


def allowed(value: bytes, user: int, groups: frozenset[int], right: int) -> bool:
    """Return whether a list gives a right to a user other than the owner, by the algorithm of acl(5); group 0 owns the file."""
    entries = list(list_entries(value))
    mask = next((rights for tag, rights, _ in entries if tag == 0x10), 7)
    for tag, rights, id_ in entries:
        if tag == 0x02 and id_ == user:
            return rights & mask & right == right
    of_groups = [
        rights for tag, rights, id_ in entries if (tag == 0x04 and 0 in groups) or (tag == 0x08 and id_ in groups)
    ]
    if of_groups:
        return any(rights & mask & right == right for rights in of_groups)
    return next(rights for tag, rights, _ in entries if tag == 0x20) & right == right


@given(
    fields=st.tuples(RIGHTS, RIGHTS, RIGHTS, RIGHTS),
    users=st.dictionaries(st.integers(1, 2), RIGHTS, max_size=2),
    groups=st.dictionaries(st.integers(1, 2), RIGHTS, max_size=2),
)
def test_a_list_changes_rights_if_anyone_may_do_more_or_less(
    fields: tuple[int, int, int, int], users: dict[int, int], groups: dict[int, int]
) -> None:
    """A list changes rights exactly if a user with some groups may do other things by it than by the mode that it sets."""
    owner, group, mask, others = fields
    named = [(0x02, rights, id_) for id_, rights in sorted(users.items())]
    of_groups = [(0x08, rights, id_) for id_, rights in sorted(groups.items())]
    last = [(0x10, mask, UNNAMED)] if named or of_groups else []
    value = access_list(
        (0x01, owner, UNNAMED), *named, (0x04, group, UNNAMED), *of_groups, *last, (0x20, others, UNNAMED)
    )
    mode = mode_of_list(value)
    plain = listed(mode >> 6, mode >> 3 & 7, mode & 7)
    sets = [frozenset(each) for size in range(4) for each in combinations(range(3), size)]

    changes = any(
        allowed(value, user, each, right) != allowed(plain, user, each, right)
        for user in range(1, 4)
        for each in sets
        for right in range(8)
    )

    assert changes_rights(value, default=False) is changes


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (listed(7, 5, 5), False),
        (listed(7, 5, 5, named=(1000, 5), mask=5), False),
        (listed(7, 7, 7), True),
        (listed(7, 5, 7), True),
        (listed(7, 7, 5), True),
        (listed(7, 5, 0), True),
        (listed(7, 5, 5, named=(1000, 7)), True),
        (listed(7, 5, 5, named=(1000, 0), mask=5), True),
        (b"no list", True),
    ],
)
def test_a_default_list_changes_rights_unless_new_files_get_those_of_the_usual_umask(
    value: bytes, *, changes: bool
) -> None:
    """A default list replaces the umask for new files in its folder: it changes nothing if it is what umask 022 leaves."""
    assert changes_rights(value, default=True) is changes


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
