"""Reading a layer's tar as changes; the tar is hostile input."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tracemalloc

import pytest

from boltseal.build.layer_changes import (
    KeptFiles,
    LayerContents,
    LayerLimits,
    NotCompared,
    libraries_of,
    read_layer,
    release_of,
)
from boltseal.oci.layer_tree import ChangeKind, FileKind, LayerTree
from boltseal.policy.rebase_conflicts import Release
from tests.images import digest_of
from tests.tar_images import GLIBC, RELEASE, Files, hard_link, symlink, tar_of

MUSL = b"\0 1.2.5\0musl libc (x86_64)\nVersion %s\0" + b"\0001.2.5\0"


def read(files: Files, limits: LayerLimits = LayerLimits()) -> LayerContents:  # noqa: B008 - it has no state
    return read_tar(tar_of(files), limits)


def read_tar(raw: bytes, limits: LayerLimits = LayerLimits()) -> LayerContents:  # noqa: B008 - it has no state
    diff_id = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return read_layer(io.BytesIO(gzip.compress(raw)), diff_id, lambda _: None, limits)


def tree_of(files: Files) -> LayerTree:
    made = LayerTree()
    made.apply(read(files).changes)
    return made


def member(**fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_each_entry_is_one_change() -> None:
    """Files, folders, links, whiteouts and opaque folders are changes at the paths that engines use."""
    found = read(
        {
            "./": "",
            "./a/": "",
            "/a/../b": "text",
            "a/.wh.gone": "",
            ".wh.top": "",
            "a/.wh..wh..opq": "",
            "l": symlink("a"),
            "l/under": "1",
            "h": hard_link("l/under"),
            "pipe": member(type=tarfile.FIFOTYPE),
        }
    )

    assert [(each.kind, each.path, each.target) for each in found.changes] == [
        (ChangeKind.WRITE, b"", b""),
        (ChangeKind.WRITE, b"a", b""),
        (ChangeKind.WRITE, b"b", b""),
        (ChangeKind.DELETE, b"a/gone", b""),
        (ChangeKind.DELETE, b"top", b""),
        (ChangeKind.CLEAR, b"a", b""),
        (ChangeKind.WRITE, b"l", b""),
        (ChangeKind.WRITE, b"a/under", b""),
        (ChangeKind.LINK, b"h", b"a/under"),
        (ChangeKind.WRITE, b"pipe", b""),
    ]
    assert [each.file.kind for each in found.changes[6:8]] == [FileKind.SYMLINK, FileKind.REGULAR]


def test_a_file_is_the_same_by_content_mode_owner_and_attributes() -> None:
    """Content, mode, owner and extended attributes distinguish files; times do not."""

    def state(content: str = "1", **fields: object) -> object:
        made = member(size=len(content), **fields)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            made.name = "a"
            archive.addfile(made, io.BytesIO(content.encode()))
        return read_tar(buffer.getvalue()).changes[0].file

    assert state(mtime=1) == state(mtime=2)
    others = [
        state("2"), state(mode=0o600), state(uid=5), state(gid=5),
        state(pax_headers={"SCHILY.xattr.user.x": "1"}), state(pax_headers={"SCHILY.xattr.user.x": "2"}),
    ]  # fmt: skip
    assert len({state(), *others}) == 7


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"/".join("d" * 300): ""}, "more than 255 folders"),
        ({"a": member(pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})}, "overlayfs"),
        ({"a/.wh.": ""}, "whiteout of no file"),
        ({"a/.wh...": ""}, "whiteout of no file"),
        ({"a": "", ".": hard_link("a")}, "root is not a folder"),
        ({"a": "", "./": symlink("a")}, "root is not a folder"),
        ({"a": symlink("x" * 5000)}, "target of 5000 bytes"),
        ({"a": symlink("b"), "b": symlink("a"), "a/b": "x"}, "symbolic links"),
    ],
)
def test_entries_that_no_engine_or_only_overlayfs_should_make_are_refused(files: Files, reason: str) -> None:
    """Absurd paths, overlayfs's own marks and malformed whiteouts are refused with the reason."""
    with pytest.raises(NotCompared, match=reason):
        read(files)


def test_another_content_than_the_config_states_is_refused() -> None:
    """A layer whose tar has another digest than the config's diff_id is refused."""
    with pytest.raises(NotCompared, match="has not the content"):
        read_layer(io.BytesIO(tar_of({"a": "1"})), f"sha256:{'0' * 64}", lambda _: None, LayerLimits())


def test_a_truncated_layer_is_refused() -> None:
    """A tar, and a compressed one, that ends too early is refused."""
    raw = tar_of({"a": "x" * 5000})
    for cut in (raw[:2000], gzip.compress(raw)[:30], b"\x28\xb5\x2f\xfd" + b"\0" * 20):
        with pytest.raises(NotCompared):
            read_layer(io.BytesIO(cut), f"sha256:{hashlib.sha256(cut).hexdigest()}", lambda _: None, LayerLimits())


def test_a_compression_bomb_is_refused_at_the_limit_with_little_memory() -> None:
    """A layer of 256 MiB in 256 KiB is refused after the limit of decompressed bytes, and never held in memory."""
    bomb = gzip.compress(tar_of({"zeros": bytes(256 * 1024 * 1024)}), 9)
    tracemalloc.start()
    with pytest.raises(NotCompared, match="more than 33554432 bytes"):
        read_layer(io.BytesIO(bomb), "sha256:x", lambda _: None, LayerLimits(tar_bytes=32 * 1024 * 1024))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 16 * 1024 * 1024


def test_the_number_of_entries_and_the_length_of_names_are_limited() -> None:
    """A layer with more entries or longer names than the limits is refused."""
    with pytest.raises(NotCompared, match="more than 2 entries"):
        read({"a": "", "b": "", "c": ""}, LayerLimits(entries=2))
    with pytest.raises(NotCompared, match="longer names"):
        read({"a" * 50: symlink("b" * 60)}, LayerLimits(names_bytes=150))


def test_short_names_that_stand_for_long_paths_are_limited() -> None:
    """Short names behind a symbolic link to a long path count with that path: they would fill the memory otherwise."""
    target = "/".join(["d" * 200] * 15)

    with pytest.raises(NotCompared, match="longer names"):
        read({"l": symlink(target), **{f"l/{number}": "" for number in range(100)}}, LayerLimits(names_bytes=100_000))


def test_files_are_kept_by_their_path_up_to_a_size() -> None:
    """Only files at the paths to keep are kept, by the hash of their content; a larger one is not, and all have a limit."""
    keep = KeptFiles(lambda path: path.startswith(b"db/"), file_bytes=5, layer_bytes=8)
    raw = tar_of({"db/a": "12345", "db/large": "123456", "x/a": "1"})
    found = read_layer(io.BytesIO(raw), digest_of(raw), lambda _: None, LayerLimits(), keep)
    too_many = tar_of({"db/a": "12345", "db/b": "6789"})

    assert found.kept == {found.changes[0].file.content: b"12345"}
    with pytest.raises(NotCompared, match="more than 8 bytes"):
        read_layer(io.BytesIO(too_many), digest_of(too_many), lambda _: None, LayerLimits(), keep)


def test_the_distribution_is_read_through_links() -> None:
    """The distribution is read from os-release, also through a symbolic link; without one there is none."""
    linked: Files = {"usr/lib/os-release": RELEASE, "etc/os-release": symlink("../usr/lib/os-release")}

    assert release_of(tree_of(linked), read(linked).releases) == Release("debian", "12")
    assert release_of(tree_of({"a": ""}), {}) is None


@pytest.mark.parametrize(
    "files",
    [
        {"etc/os-release": "x" * 100_000},
        {"etc/os-release/": ""},
        {"etc/other": RELEASE, "etc/os-release": symlink("other")},
    ],
)
def test_an_unreadable_os_release_is_could_not_check(files: Files) -> None:
    """An os-release that is too long, a folder, or a link to a file of another name is no absent one."""
    with pytest.raises(NotCompared, match="os-release"):
        release_of(tree_of(files), read(files).releases)


def test_the_versions_of_c_libraries_are_read() -> None:
    """glibc and musl are found by name, through links, with the version in their file, or None if it has none."""
    files: Files = {
        "lib/x86_64-linux-gnu/libc-2.31.so": GLIBC.replace("2.36", "2.31"),
        "lib/x86_64-linux-gnu/libc.so.6": symlink("libc-2.31.so"),
        "lib32/libc.so.6": "no version",
        "lib/ld-musl-x86_64.so.1": MUSL,
        "lib/libc.so.6.dangling": symlink("nowhere"),
        "usr/lib/libc.so": "a linker script",
        "old/libc.so.6": symlink("nowhere"),
    }
    found = {(each.kind, each.version) for each in libraries_of(tree_of(files), read(files).versions)}

    assert found == {("glibc", (2, 31)), ("glibc", None), ("musl", (1, 2, 5))}


def test_a_global_header_is_no_file() -> None:
    """A PAX global header, as git archive writes it, is ignored."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as archive:
        archive.addfile(member(name="a"))

    assert [each.path for each in read_tar(buffer.getvalue()).changes] == [b"a"]
