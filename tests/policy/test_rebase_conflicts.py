"""Whether the own layers of an image can stay as they are on another base."""

from __future__ import annotations

import pytest

from boltseal.oci.layer_tree import ChangeKind, FileKind, FileState, LayerChange, LayerTree
from boltseal.policy.rebase_conflicts import (
    CLibrary,
    Conflict,
    ConflictRule,
    Release,
    layer_conflicts,
    library_conflicts,
    parse_os_release,
    release_conflict,
)

OLD = {"bin/tool": "1", "etc/same": "s", "etc/app.conf": "1", "lib/gone/x": "1", "usr/share/a": "a"}
NEW = {"bin/tool": "2", "etc/same": "s", "etc/app.conf": "1", "usr/share/a": "a", "usr/share/added": "n"}


def folder(mode: int) -> FileState:
    return FileState(FileKind.FOLDER, mode)


def text(content: str) -> FileState:
    return FileState(FileKind.REGULAR, 0o644, content=content.encode())


def write(path: str, file: FileState | str) -> LayerChange:
    return LayerChange(ChangeKind.WRITE, path.encode(), text(file) if isinstance(file, str) else file)


def change(kind: ChangeKind, path: str, target: str = "") -> LayerChange:
    return LayerChange(kind, path.encode(), target=target.encode())


def tree(files: dict[str, str | FileState]) -> LayerTree:
    made = LayerTree()
    made.apply([write(path, file) for path, file in files.items()])
    return made


def conflicts(
    *changes: LayerChange, old: dict[str, str | FileState], new: dict[str, str | FileState]
) -> list[Conflict]:
    return [*layer_conflicts(tree(old), tree(new), changes)]


def found(*changes: LayerChange) -> list[tuple[ConflictRule, str]]:
    return [(each.rule, each.path) for each in conflicts(*changes, old={**OLD}, new={**NEW})]


def test_own_files_and_equal_files_of_the_base_are_no_conflict() -> None:
    """An image may add files, and overwrite or delete files that both bases have equally."""
    own = [write("app/main", "mine"), write("etc/same", "mine"), change(ChangeKind.DELETE, "etc/app.conf")]

    assert found(*own, change(ChangeKind.DELETE, "never/there"), change(ChangeKind.CLEAR, "etc")) == []


def test_an_overwritten_file_that_changed_is_a_conflict() -> None:
    """Own files hide a file of the base that is changed, added or removed there, unless it is the very same file."""
    assert found(write("bin/tool", "mine")) == [(ConflictRule.OVERWRITTEN, "/bin/tool")]
    assert found(write("usr/share/added", "mine")) == [(ConflictRule.OVERWRITTEN, "/usr/share/added")]
    assert (ConflictRule.OVERWRITTEN, "/lib/gone/x") in found(write("lib/gone/x", "mine"))
    assert found(write("bin/tool", "2")) == []


def test_the_reason_says_how_the_file_differs() -> None:
    """The reason names whether the new base added, removed or changed the file."""
    reasons = [
        conflicts(write(path, "mine"), old={"a": "1", "r": "1"}, new={"a": "2", "n": "1"})[0].reason for path in "anr"
    ]

    assert [reason.rpartition(" ")[2] for reason in reasons] == ["changed", "added", "removed"]


def test_a_deleted_file_that_changed_is_a_conflict() -> None:
    """A whiteout of a changed file, or of a folder with one, is a conflict."""
    assert found(change(ChangeKind.DELETE, "bin/tool")) == [(ConflictRule.DELETED, "/bin/tool")]
    assert found(change(ChangeKind.DELETE, "bin")) == [(ConflictRule.DELETED, "/bin/tool")]


def test_an_emptied_folder_with_changes_is_a_conflict() -> None:
    """An opaque folder hides what the new base changed in it; one whose files are equal in both bases does not."""
    assert found(change(ChangeKind.CLEAR, "usr")) == [(ConflictRule.DELETED, "/usr/share/added")]
    assert found(change(ChangeKind.CLEAR, "etc")) == []


def test_a_file_over_a_folder_with_changes_is_a_conflict() -> None:
    """A file that replaces a folder of the base hides what changed in the folder."""
    assert found(write("usr/share", "a file")) == [(ConflictRule.OVERWRITTEN, "/usr/share/added")]


def test_a_hard_link_to_a_changed_file_is_a_conflict() -> None:
    """A hard link that names a changed file of the base, or hides one, is a conflict."""
    assert found(change(ChangeKind.LINK, "app/tool", "bin/tool")) == [(ConflictRule.LINK, "/app/tool")]
    assert found(change(ChangeKind.LINK, "bin/tool", "etc/same")) == [(ConflictRule.OVERWRITTEN, "/bin/tool")]
    assert found(change(ChangeKind.LINK, "app/same", "etc/same")) == []


def test_a_copied_folder_keeps_old_attributes_of_a_changed_one() -> None:
    """A folder entry that would undo the new base's mode is a conflict; one that sets the same mode is not."""
    old: dict[str, str | FileState] = {"var": folder(0o755), "opt": folder(0o755)}
    new: dict[str, str | FileState] = {"var": folder(0o700), "opt": folder(0o755)}

    assert [each.rule for each in conflicts(write("var", folder(0o755)), old=old, new=new)] == [ConflictRule.FOLDER]
    assert conflicts(write("var", folder(0o700)), write("opt", folder(0o711)), old=old, new=new) == []


def test_a_folder_that_is_gone_or_another_kind_of_file_is_a_conflict() -> None:
    """Files in a folder that the new base lacks, or in which it has a symbolic link, are conflicts, once for each folder."""
    link = FileState(FileKind.SYMLINK, content=b"usr/bin")
    gone = found(write("lib/gone/own", "mine"), write("lib/gone/own2", "mine"))

    assert gone == [(ConflictRule.FOLDER, "/lib"), (ConflictRule.FOLDER, "/lib/gone")]
    merged = conflicts(write("bin/own", "mine"), old={"bin": folder(0o755)}, new={"bin": link})
    assert [(each.rule, each.path) for each in merged] == [(ConflictRule.FOLDER, "/bin")]
    assert "symbolic link" in merged[0].reason
    assert conflicts(write("bin/own", "mine"), old={"bin": link}, new={"bin": link}) == []
    lacking = conflicts(write("bin", folder(0o711)), old={"bin": folder(0o755)}, new={})
    assert "lacks it" in lacking[0].reason


@pytest.mark.parametrize(
    ("database", "path"), [("dpkg", "var/lib/dpkg/"), ("apk", "lib/apk/db/"), ("rpm", "usr/lib/sysimage/rpm/")]
)
def test_package_databases_that_both_changed_are_one_conflict(database: str, path: str) -> None:
    """Packages of the image and other packages of the base are one conflict, however many files the database has."""
    old: dict[str, str | FileState] = {f"{path}status": "1"}
    own = [write(path.rstrip("/"), folder(0o755)), write(f"{path}status", "mine"), write(f"{path}list", "mine")]
    both = conflicts(*own, old=old, new={f"{path}status": "2"})

    assert [each.rule for each in both] == [ConflictRule.PACKAGES]
    assert f"database of {database}" in both[0].reason
    assert conflicts(*own[1:], old=old, new={**old, "other": "file"}) == []


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (None, None, True),
        (Release("debian", "12"), Release("debian", "12"), True),
        (Release("rocky", "9.3"), Release("rocky", "9.4"), True),
        (Release("alpine", "3.18.4"), Release("alpine", "3.18.5"), True),
        (Release("alpine", "3.18.4"), Release("alpine", "3.19.0"), False),
        (Release("ubuntu", "22.04"), Release("ubuntu", "24.04"), False),
        (Release("debian", "12"), Release("debian", "13"), False),
        (Release("debian", "12"), Release("ubuntu", "12"), False),
        (Release("debian", "12"), None, False),
        (None, Release("", ""), False),
    ],
)
def test_the_distribution_and_its_major_version_must_be_equal(
    old: Release | None, new: Release | None, *, same: bool
) -> None:
    """Another distribution or major version is a conflict; a base without os-release has none."""
    conflict = release_conflict(old, new)

    assert (conflict is None) == same
    if conflict is not None:
        assert conflict.rule is ConflictRule.DISTRIBUTION


def test_os_release_is_parsed_as_the_shell_would() -> None:
    """Values may be quoted; other lines, comments and malformed lines are ignored."""
    text = '# x\nNAME="Debian"\nID=debian\nVERSION_ID="12"\nID_LIKE=x\nVERSION_ID\n'

    assert parse_os_release(text) == Release("debian", "12")
    assert parse_os_release("ID='alpine'\nVERSION_ID=3.18.4 \n") == Release("alpine", "3.18.4")
    assert parse_os_release("") == Release("", "")


def library(kind: str, *version: int, content: str = "") -> CLibrary:
    return CLibrary(kind, f"/lib/{kind}", (content or f"{version}").encode(), version or None)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ([], [library("glibc", 2, 36)], None),
        ([library("glibc", 2, 36)], [library("glibc", 2, 36)], None),
        ([library("glibc", 2, 36)], [library("glibc", 2, 41), library("musl", 1, 2, 5)], None),
        ([library("glibc", 2, 41)], [library("glibc", 2, 36)], "an older 2.36"),
        ([library("musl", 1, 2, 5)], [library("glibc", 2, 36)], "the new one has glibc"),
        ([library("musl", 1, 2, 5)], [], "no C library"),
        ([library("glibc", content="a")], [library("glibc", content="a")], None),
        ([library("glibc", content="a")], [library("glibc", 2, 36)], "can't be read"),
        ([library("glibc", 2, 36)], [library("glibc", content="b")], "can't be read"),
    ],
)
def test_each_c_library_must_be_there_and_not_older(
    old: list[CLibrary], new: list[CLibrary], reason: str | None
) -> None:
    """A missing or older C library is a conflict, a newer or further one is not; an unreadable version is a conflict."""
    reasons = [conflict.reason for conflict in library_conflicts(old, new)]

    assert len(reasons) == (reason is not None)
    assert reason is None or reason in reasons[0]
