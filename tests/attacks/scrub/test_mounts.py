"""A clean copy mounted over tampered files: programs read the copy, while overlayfs reads the files below it.

Only scratch folders are mounted, on scratch folders, and each mount is undone before anything is removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from boltseal.engines.mounts import mount_points_below
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, check
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests.attacks.scrub.file_changes import rewritten
from tests.attacks.scrub.stores import Store
from tests.host.scrub.made_stores import DockerStore
from tests.programs import program

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """Bind-mount scratch data for the duration of a test."""
    subprocess.run([program("mount"), "--no-canonicalize", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run([program("umount"), "--no-canonicalize", "--lazy", target], check=True)


def clean_copy(path: Path, to: Path) -> Path:
    """Return a copy that equals the original in everything that is compared."""
    subprocess.run(["cp", "-a", path, to], check=True)
    return to


def differences_in(report: ScrubReport) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for each in report.differences}


def tampered(store: Store) -> None:
    """Replace the content of a program of the image."""
    rewritten(store.at("bin/tool"), b"#!evil\n" + store.at("bin/tool").read_bytes()[7:])


@pytest.mark.parametrize("path", ["bin/tool", "bin"])
def test_a_clean_copy_mounted_over_a_tampered_path_is_found(store: Store, tmp_path: Path, path: str) -> None:
    """A clean copy mounted over a tampered file or folder, on the same file system, is found."""
    copy = clean_copy(store.at(path), tmp_path / "copy")
    tampered(store)
    with bound(copy, store.at(path)):
        report = store.image_report()

    assert (report.status, differences_in(report)) == (ReportStatus.DIFFERS, {(DifferenceKind.MOUNT, path)})


def test_a_carriage_return_in_the_path_of_the_copy_hides_no_mount(store: Store, tmp_path: Path) -> None:
    """The kernel does not escape a carriage return in the mount table; it must not hide the mount from the parser."""
    copy = clean_copy(store.at("bin/tool"), tmp_path / "carriage\rreturn")
    tampered(store)
    with bound(copy, store.at("bin/tool")):
        report = store.image_report()

    assert (report.status, differences_in(report)) == (ReportStatus.DIFFERS, {(DifferenceKind.MOUNT, "bin/tool")})


@pytest.mark.parametrize("up", [0, 1])
def test_a_clean_copy_mounted_over_a_layers_folder_is_found(store: Store, tmp_path: Path, up: int) -> None:
    """A clean copy mounted over a layer's files or over the folder above them is found."""
    folder = [store.at(""), store.at("").parent][up]
    copy = clean_copy(folder, tmp_path / "copy")
    tampered(store)
    with bound(copy, folder):
        report = store.image_report()

    assert (report.status, differences_in(report)) == (
        ReportStatus.DIFFERS,
        {(DifferenceKind.MOUNT, str(folder.relative_to(store.root)))},
    )


@pytest.mark.parametrize("name", ["link", "lower", "work"])
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_mount_beside_a_layers_files_is_found(
    copy_of: Callable[[str], Store], tmp_path: Path, engine: str, name: str
) -> None:
    """A mount over a list of lower layers, which the engine reads again after the unmount, is found."""
    store = copy_of(engine)
    path = store.at("", 2).parent / name
    copy = clean_copy(path, tmp_path / "copy")
    with bound(copy, path):
        report = store.image_report()

    assert differences_in(report) == {(DifferenceKind.MOUNT, str(path.relative_to(store.root)))}


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_mount_over_the_links_to_the_layers_is_found(
    copy_of: Callable[[str], Store], tmp_path: Path, engine: str
) -> None:
    """A mount over the folder `l` of Docker or Podman is found."""
    store = copy_of(engine)
    links = store.at("").parents[1] / "l"
    copy = clean_copy(links, tmp_path / "copy")
    with bound(copy, links):
        report = store.image_report()

    assert differences_in(report) == {(DifferenceKind.MOUNT, str(links.relative_to(store.root)))}


def test_stacked_mounts_are_found(store: Store, tmp_path: Path) -> None:
    """Of several mounts on one path, the topmost is found too."""
    copy, second = clean_copy(store.at("bin"), tmp_path / "copy"), clean_copy(store.at("bin"), tmp_path / "second")
    tampered(store)
    with bound(copy, store.at("bin")), bound(second, store.at("bin")):
        report = store.image_report()

    assert differences_in(report) == {(DifferenceKind.MOUNT, "bin")}


@pytest.mark.parametrize("up", [2, 3])
def test_a_store_that_is_a_mount_is_clean(store: Store, up: int) -> None:
    """A store or a layers folder that is itself a mount is clean; Docker and Podman also mount that folder on itself."""
    folder = [store.at(""), *store.at("").parents][up]
    with bound(folder, folder):
        report = store.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_mounts_of_an_engine_are_clean(copy_of: Callable[[str], Store], tmp_path: Path, engine: str) -> None:
    """Mounts in `merged`, which the engine makes beside a layer's files, are no finding."""
    store = copy_of(engine)
    merged = store.at("").parent / "merged"
    merged.mkdir(exist_ok=True)
    (tmp_path / "volume/within").mkdir(parents=True)
    with bound(tmp_path / "volume", merged), bound(tmp_path / "volume", merged / "within"):
        report = store.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


def test_a_hidden_mount_is_no_difference(store: Store, tmp_path: Path) -> None:
    """A mount at a path inside the store is no difference when the whole store was mounted over it afterwards."""
    copy, other = clean_copy(store.at("bin"), tmp_path / "copy"), clean_copy(store.root, tmp_path / "other")
    with bound(copy, store.at("bin")), bound(other, store.root):
        report = store.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.mark.parametrize(
    "name", ["with space", "tab\tline\n", "back\\slash", "back\\040slash", "größe", "#", "carriage\rreturn"]
)
def test_escaped_paths_in_the_mount_table_are_read(tmp_path: Path, name: str) -> None:
    """Spaces, tabs, line ends and backslashes, which the mount table has in octal, are decoded."""
    (tmp_path / name).mkdir()
    store = DockerStore.at(tmp_path / name)
    store.image("good:1", {f"etc/{name}/good": b"good"})
    path = store.layer() / "etc" / name
    (clean,) = scrub(store_at(store.root), ScrubRequest(), lambda *_: None)
    with bound(clean_copy(path, tmp_path / "copy"), path):
        points = mount_points_below(store.root, b"overlay2")
        (report,) = scrub(store_at(store.root), ScrubRequest(), lambda *_: None)

    assert clean.status is ReportStatus.HOLDS
    assert points == [os.fsencode(path.relative_to(store.root / "overlay2"))]
    assert [each.kind for each in report.differences] == [DifferenceKind.MOUNT]


def test_a_mount_made_during_the_check_is_found(tmp_path: Path) -> None:
    """The mount table is read again after the files, so a mount made during the check is found."""
    store = DockerStore.at(tmp_path)
    store.image("good:1", {"etc/good": b"good"})
    layer = layer_of(store)
    copy = clean_copy(store.layer() / "etc", tmp_path / "copy")
    made: list[AbstractContextManager[None]] = []

    def mount(_: int) -> None:
        if not made:
            made.append(bound(copy, store.layer() / "etc"))
            made[0].__enter__()

    try:
        result = check(layer, CheckMode(), mount)
    finally:
        for each in made:
            each.__exit__(None, None, None)

    assert [(each.kind, each.path) for each in result.differences] == [(DifferenceKind.MOUNT, "etc")]
    assert result.count == 1


@pytest.mark.parametrize("path", ["b", "b/tampered"])
def test_a_mount_that_exists_only_during_the_check_could_not_be_checked(tmp_path: Path, path: str) -> None:
    """A clean copy that is mounted over a tampered file only while the layer is read is not read in its place."""
    store = DockerStore.at(tmp_path)
    store.image("good:1", {"a/large": b"a" * 1_000_000, "b/tampered": b"good"})
    layer = layer_of(store)
    copy = clean_copy(store.layer() / path, tmp_path / "copy")
    rewritten(store.layer() / "b/tampered", b"evil")
    mounted = ExitStack()
    calls: list[int] = []

    def mount_and_unmount(size: int) -> None:
        calls.append(size)
        if len(calls) == 1:  # the first piece of the large file
            mounted.enter_context(bound(copy, store.layer() / path))
        elif size < 256 * 1024:  # everything was read
            mounted.close()

    with mounted:
        result = check(layer, CheckMode(), mount_and_unmount)

    assert result.unknown or result.differences
    assert "something is mounted over" in " ".join(result.unknown)


def layer_of(store: DockerStore) -> LayerFiles:
    ((plan,),) = [each.plan(each.root).images for each in store_at(store.root)]
    return plan.layers[0]


def test_mounts_of_another_namespace_could_not_be_checked(tmp_path: Path) -> None:
    """Mounts of another mount namespace are in another table, so the store could not be checked."""
    store = DockerStore.at(tmp_path)
    store.image("good:1", {"etc/good": b"good"})
    other = subprocess.Popen([program("unshare"), "--mount", program("sh"), "-c", "echo; read x"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert other.stdout is not None
        other.stdout.readline()
        (report,) = scrub(store_at(Path(f"/proc/{other.pid}/root{store.root}")), ScrubRequest(), lambda *_: None)
    finally:
        other.communicate(b"\n")

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "another mount namespace" in report.unknown[0]


def test_mounts_are_seen_in_a_chroot(tmp_path: Path) -> None:
    """Mounts are found in a chroot, where the table lacks the mount of the root itself."""
    for made in ("proc", "store/layers/one/diff", "copy"):
        (tmp_path / made).mkdir(parents=True)
    code = """
import os, pathlib, subprocess, sys
from boltseal.engines.mounts import mount_points_below
root = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
subprocess.run(["mount", "--bind", root / "copy", root / "store/layers/one/diff"], check=True)
os.chroot(root)
os.chdir("/")
print(mount_points_below(pathlib.Path("/store"), b"layers"))
"""
    done = subprocess.run(
        [program("unshare"), "--mount", sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "[b'one/diff']"
