"""The files of an image as its layers make them."""

from __future__ import annotations

import pytest

from boltseal.oci.layer_tree import (
    IMPLIED_FOLDER,
    ChangedPaths,
    ChangeKind,
    FileKind,
    FileState,
    LayerChange,
    LayerTree,
    TreeUnsuitable,
    ancestors,
    parent,
    shown,
)

FOLDER = FileState(FileKind.FOLDER, 0o755)


def text(content: str) -> FileState:
    return FileState(FileKind.REGULAR, 0o644, content=content.encode())


def link(target: str) -> FileState:
    return FileState(FileKind.SYMLINK, 0o777, content=target.encode())


def write(path: str, file: FileState | str = "") -> LayerChange:
    return LayerChange(ChangeKind.WRITE, path.encode(), text(file) if isinstance(file, str) else file)


def delete(path: str) -> LayerChange:
    return LayerChange(ChangeKind.DELETE, path.encode())


def clear(path: str) -> LayerChange:
    return LayerChange(ChangeKind.CLEAR, path.encode())


def hard_link(path: str, target: str) -> LayerChange:
    return LayerChange(ChangeKind.LINK, path.encode(), target=target.encode())


def tree(*layers: list[LayerChange]) -> LayerTree:
    made = LayerTree()
    for layer in layers:
        made.apply(layer)
    return made


def paths(made: LayerTree) -> list[bytes]:
    return sorted(path for path in made.paths() if path)


def test_the_root_is_a_folder() -> None:
    """A file, or a hard link to one, in place of the root folder is refused."""
    for change in (write(""), hard_link("", "a")):
        with pytest.raises(TreeUnsuitable, match="root of the image"):
            tree([write("a"), change])


def test_a_later_layer_replaces_and_adds_files() -> None:
    """A file of a later layer replaces that of an earlier one, and folders without an entry exist all the same."""
    made = tree([write("etc/a", "1")], [write("etc/a", "2"), write("etc/b/c", "3")])

    assert paths(made) == [b"etc", b"etc/a", b"etc/b", b"etc/b/c"]
    assert made.file(b"etc/a") == text("2")
    assert made.file(b"etc/b") == IMPLIED_FOLDER


def test_a_whiteout_removes_a_file_or_a_folder_of_lower_layers_only() -> None:
    """A whiteout hides what lower layers have at its path, and not what its own layer writes there, in any order."""
    made = tree(
        [write("a/b/c", "1"), write("a/d", "1"), write("e", "1")], [write("a/b/new"), delete("a/b"), delete("x/y")]
    )

    assert paths(made) == [b"a", b"a/b", b"a/b/new", b"a/d", b"e"]
    assert paths(tree([write("a/b/c"), write("f")], [delete("a"), delete("f")])) == []


def test_an_opaque_folder_hides_what_lower_layers_have_in_it() -> None:
    """An opaque folder stays, without the files of lower layers; an opaque mark on nothing changes nothing."""
    made = tree([write("a/b/c"), write("a/d")], [clear("a"), write("a/own"), clear("nowhere")])

    assert paths(made) == [b"a", b"a/own"]


def test_a_file_replaces_a_folder_and_a_folder_a_file() -> None:
    """A file at a folder's path removes everything in the folder; a file below a file makes that a folder."""
    made = tree([write("a/b/c"), write("f")], [write("a", "file"), write("f/in")])

    assert paths(made) == [b"a", b"f", b"f/in"]
    assert made.file(b"a") == text("file")
    assert made.file(b"f") == IMPLIED_FOLDER


def test_a_hard_link_is_the_file_that_it_names() -> None:
    """A hard link has the state of its target, of the same layer or a lower one."""
    made = tree([write("a", "1")], [write("b", "2"), hard_link("c", "a"), hard_link("d", "b")])

    assert (made.file(b"c"), made.file(b"d")) == (text("1"), text("2"))


@pytest.mark.parametrize("target", ["missing", "folder"])
def test_a_hard_link_to_no_file_is_refused(target: str) -> None:
    """A hard link to a missing file or a folder is refused, as no engine can create it."""
    with pytest.raises(TreeUnsuitable, match=f"/{target}"):
        tree([write("folder", FOLDER), hard_link("link", target)])


def test_the_number_of_files_and_the_length_of_paths_are_bounded() -> None:
    """An image with more files than the limit, or longer paths, is refused."""
    with pytest.raises(TreeUnsuitable, match="more than 3 files"):
        LayerTree(max_files=3).apply([write("a"), write("b"), write("c")])
    with pytest.raises(TreeUnsuitable, match="longer paths"):
        LayerTree(max_path_bytes=10).apply([write("a/long/path/of/folders")])


def test_symbolic_links_are_followed() -> None:
    """A look-up follows relative and absolute links, also of folders, and `..`."""
    made = tree(
        [
            write("usr/lib/os-release", "debian"),
            write("etc/os-release", link("../usr/lib/os-release")),
            write("etc/absolute", link("/usr/./lib/os-release")),
            write("lib", link("usr/lib")),
            write("etc/broken", link("nowhere")),
            write("etc/cycle", link("cycle")),
        ]
    )

    for path in (b"etc/os-release", b"etc/absolute", b"lib/os-release", b"lib/../lib/os-release"):
        assert made.followed(path) == text("debian"), path
    for path in (b"etc/broken", b"etc/cycle", b"none"):
        assert made.followed(path) is None, path
    assert made.followed(b"/") == IMPLIED_FOLDER


def test_the_changed_paths_of_two_images() -> None:
    """Added, removed and changed files are changed paths; equal ones are not."""
    old = tree([write("a/same", "1"), write("a/changed", "1"), write("a-removed", "1"), write("b/x/y", "1")])
    new = tree([write("a/same", "1"), write("a/changed", "2"), write("b/x/y", "1"), write("c", "new")])
    changed = ChangedPaths(old, new)

    assert len(changed) == 3
    assert all(path in changed for path in (b"a/changed", b"a-removed", b"c"))
    assert b"a/same" not in changed
    assert changed.first_below(b"a") == b"a/changed"
    assert changed.first_below(b"b") is None
    assert changed.first_below(b"z") is None
    assert changed.first_below(b"") == b"a-removed"


def test_a_changed_root_is_not_below_itself() -> None:
    """A change of the root folder's own mode is no change of a file in it."""
    changed = ChangedPaths(tree(), tree([write("", FileState(FileKind.FOLDER, 0o700))]))

    assert b"" in changed
    assert changed.first_below(b"") is None


def test_the_parts_of_paths() -> None:
    """Parents and ancestors of paths are folders without the root; a path is shown from the root, on one line."""
    assert [*ancestors(b"a/b/c")] == [b"a", b"a/b"]
    assert [*ancestors(b"a")] == []
    assert (parent(b"a/b"), parent(b"a")) == (b"a", b"")
    assert shown(b"a/\xff\n") == "/a/\\xff\\n"
