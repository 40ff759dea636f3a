"""Docker's and Podman's storage driver vfs, whose layers have full copies of the layers below them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.clean_layers import LAYERS
from tests.attacks.scrub.file_changes import kept_times, rewritten
from tests.attacks.scrub.image import CAPABILITY, Layer, archive, base, middle, top
from tests.attacks.scrub.stores import podman_on
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

BOX = "shop/box:1"
CLEAN = {name: layers for name, layers in LAYERS.items() if name != "implied"}
"""In "implied" a folder of the upper layer has the name of a file of the lower one: engines with vfs refuse to unpack it."""
ENGINES = ["docker", "podman"]


def reports(root: Path, *, quick: bool = False) -> list[ScrubReport]:
    return scrub(store_at(root), ScrubRequest(check_mode=CheckMode(quick=quick)), lambda *_: None)


def differences_in(root: Path, *, quick: bool = False) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for report in reports(root, quick=quick) for each in report.differences}


@dataclass(frozen=True)
class Engine:
    """An engine with the storage driver vfs. `command`: its command line; `root`: its store."""

    command: tuple[str, ...]
    root: Path

    def run(self, *argv: str | Path) -> str:
        return run(*self.command, *argv).checked().strip()


def podman_vfs(folder: Path) -> Engine:
    options = [each if each != "overlay" else "vfs" for each in podman_on(folder / "root", folder)]
    return Engine((*options, "--runtime", "runc"), folder / "root")


def replacing() -> list[bytes]:
    """Return two layers; the second one replaces kinds of files of the first, links to one, and unpacks through links."""
    lower = Layer().folder("usr").folder("usr/lib").add("usr/lib/a", b"a")
    lower.add("lib", kind=b"2", link="usr/lib", mode=0o777).add("lib64", kind=b"2", link="/lib/./../lib", mode=0o777)
    lower.folder("folder").add("folder/f", b"f").add("file", b"file").add("target", b"target").folder("gone").add(
        "gone/y", b"y"
    )
    upper = (
        Layer()
        .add("lib/x", b"x")
        .add("lib/z", b"z")
        .add("lib64/y/deep", b"y")
        .add("lib/.wh.a")
        .add("folder", b"file now")
    )
    upper.folder("file").add("file/in", b"in").add("target2", kind=b"1", link="target")
    return [lower.done(), upper.add(".wh.gone").folder("gone").add("gone/z", b"z").done()]


def listed_again() -> list[bytes]:
    """Return two layers; the second one lists folders of the first again, with other attributes, in place or after a whiteout."""
    mine, other = {"SCHILY.xattr.user.mine": "1"}, {"SCHILY.xattr.user.other": "2"}
    lower, upper = Layer(), Layer()
    for name in ("kept", "added", "changed", "removed"):
        lower.add(name, kind=b"5", mode=0o755, pax=mine)
    upper.folder("kept").add("added", kind=b"5", mode=0o755, pax=other)
    upper.add("changed", kind=b"5", mode=0o755, pax={"SCHILY.xattr.user.mine": "3"})
    return [lower.done(), upper.add(".wh.removed").folder("removed").done()]


@contextmanager
def started(name: str, folder: Path, images: Mapping[str, list[bytes]]) -> Iterator[Engine]:
    """Run an engine that has loaded these images."""

    def load(into: Engine) -> Engine:
        for image, layers in images.items():
            archive(folder / "image.tar", layers, image, ["/bin/sleep", "1000"])
            into.run("load", "-q", "-i", folder / "image.tar")
        return into

    if name == "podman":
        yield load(podman_vfs(folder))
        servers.unmounted(folder)
        return
    with servers.dockerd(folder / "engine", driver="vfs") as server:
        yield load(Engine(("docker", "-H", f"unix://{server.address}"), folder / "engine/data"))


@pytest.fixture(scope="module", params=ENGINES)
def engine(
    request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine of each kind, with all images of LAYERS and a runnable one."""
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    box.add("bin/sh", kind=b"1", link="bin/box", mode=0o755).add("bin/sleep", kind=b"1", link="bin/box", mode=0o755)
    clean = {**CLEAN, "replacing": replacing(), "again": listed_again()}
    images = {**{f"clean/{name}:1": layers for name, layers in clean.items()}, BOX: [base(), box.done()]}
    with started(request.param, tmp_path_factory.mktemp(request.param), images) as made:
        yield made


@pytest.fixture(scope="module", params=ENGINES)
def original(request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of each engine with the image of three layers that has every kind of entry."""
    images = {"shop/app:1": [base(), middle(), top()]}
    with started(request.param, tmp_path_factory.mktemp(request.param), images) as made:
        return made.root


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """A copy of the store to tamper with."""
    subprocess.run(["cp", "-a", original, tmp_path / "store"], check=True)
    return tmp_path / "store"


def folder_with(root: Path, path: str) -> Path:
    """Return the folder of the only layer that has a path."""
    (found,) = [each for each in (root / "vfs/dir").iterdir() if (each / path).exists()]
    return found


def test_images_are_clean(engine: Engine) -> None:
    """Images with every kind of entry have no findings, with contents read and without."""
    for quick in (False, True):
        found = [each for each in reports(engine.root, quick=quick) if each.what == "image"]

        assert len(found) == len(CLEAN) + 3
        assert [
            (each.ref, each.differences, each.unknown) for each in found if each.status is not ReportStatus.HOLDS
        ] == []


# ---- attacks on a file that a layer has as a copy, and on the file of the layer that it comes from


def content_changed(at: Path) -> None:
    rewritten(at / "bin/tool", b"#!evil\n" * 3000)


def grown(at: Path) -> None:
    rewritten(at / "bin/tool", b"#!tool\n" * 3001)


def empty_file_filled(at: Path) -> None:
    rewritten(at / "etc/empty", b"evil")


def deleted(at: Path) -> None:
    (at / "etc/empty").unlink()


def folder_deleted(at: Path) -> None:
    subprocess.run(["rm", "-r", at / "usr/lib/deep"], check=True)


def setuid_added(at: Path) -> None:
    (at / "bin/tool").chmod(0o4755)


def setuid_dropped(at: Path) -> None:
    (at / "bin/su").chmod(0o755)


def folder_opened(at: Path) -> None:
    (at / "bin").chmod(0o777)


def owner_changed(at: Path) -> None:
    os.chown(at / "etc/empty", 1000, -1)


def group_of_a_folder_changed(at: Path) -> None:
    os.chown(at / "bin", -1, 42)


def owner_of_a_link_changed(at: Path) -> None:
    os.chown(at / "lib", 1000, 1000, follow_symlinks=False)


def time_changed(at: Path) -> None:
    os.utime(at / "bin/tool", (1, 1))


def capability_removed(at: Path) -> None:
    os.removexattr(at / "bin/ping", "security.capability")


def capability_widened(at: Path) -> None:
    os.setxattr(at / "bin/ping", "security.capability", CAPABILITY.encode("latin-1").replace(b"\x04", b"\xff"))


def capability_added(at: Path) -> None:
    os.setxattr(at / "bin/tool", "security.capability", CAPABILITY.encode("latin-1"))


def attribute_added(at: Path) -> None:
    os.setxattr(at / "bin/tool", "user.evil", b"1")


def setuid_file_planted(at: Path) -> None:
    (at / "bin/evil").write_bytes(b"evil")
    (at / "bin/evil").chmod(0o4755)


def planted_in_the_root(at: Path) -> None:
    (at / "evil").mkdir()


def planted_in_a_folder_without_an_entry(at: Path) -> None:
    (at / "usr/lib/evil").write_bytes(b"evil")


def link_retargeted(at: Path) -> None:
    before = (at / "lib").lstat()
    (at / "lib").unlink()
    (at / "lib").symlink_to("tmp/ev1")
    os.utime(at / "lib", ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def link_in_place_of_a_folder(at: Path) -> None:
    (at / "bin").rename(at.parent.parent.parent / "aside")
    (at / "bin").symlink_to("/tmp/evil")


def hard_link_made_a_copy(at: Path) -> None:
    before = (at / "bin/su2").stat()
    (at / "bin/su2").unlink()
    (at / "bin/su2").write_bytes(b"su" * 1000)
    (at / "bin/su2").chmod(0o4755)
    os.utime(at / "bin/su2", ns=(before.st_atime_ns, before.st_mtime_ns))


def device_swapped(at: Path) -> None:
    before = (at / "dev/null").stat()
    (at / "dev/null").unlink()
    os.mknod(at / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 1))
    (at / "dev/null").chmod(0o666)
    os.utime(at / "dev/null", ns=(before.st_atime_ns, before.st_mtime_ns))


def pipe_made_a_file(at: Path) -> None:
    (at / "dev/pipe").unlink()
    (at / "dev/pipe").touch()


def root_closed(at: Path) -> None:
    at.chmod(0o700)


def setuid_of_the_root(at: Path) -> None:
    at.chmod(at.stat().st_mode | stat.S_ISUID)


ATTACKS: dict[Callable[[Path], None], tuple[DifferenceKind, str]] = {
    content_changed: (DifferenceKind.CONTENT, "bin/tool"),
    grown: (DifferenceKind.SIZE, "bin/tool"),
    empty_file_filled: (DifferenceKind.SIZE, "etc/empty"),
    deleted: (DifferenceKind.MISSING, "etc/empty"),
    folder_deleted: (DifferenceKind.MISSING, "usr/lib/deep"),
    setuid_added: (DifferenceKind.MODE, "bin/tool"),
    setuid_dropped: (DifferenceKind.MODE, "bin/su"),
    folder_opened: (DifferenceKind.MODE, "bin"),
    owner_changed: (DifferenceKind.OWNER, "etc/empty"),
    group_of_a_folder_changed: (DifferenceKind.OWNER, "bin"),
    owner_of_a_link_changed: (DifferenceKind.OWNER, "lib"),
    time_changed: (DifferenceKind.MTIME, "bin/tool"),
    capability_removed: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_widened: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_added: (DifferenceKind.CAPABILITY, "bin/tool"),
    attribute_added: (DifferenceKind.XATTR, "bin/tool"),
    setuid_file_planted: (DifferenceKind.EXTRA, "bin/evil"),
    planted_in_the_root: (DifferenceKind.EXTRA, "evil"),
    planted_in_a_folder_without_an_entry: (DifferenceKind.EXTRA, "usr/lib/evil"),
    link_retargeted: (DifferenceKind.LINK, "lib"),
    link_in_place_of_a_folder: (DifferenceKind.TYPE, "bin"),
    hard_link_made_a_copy: (DifferenceKind.HARDLINK, "bin/su2"),
    device_swapped: (DifferenceKind.DEVICE, "dev/null"),
    pipe_made_a_file: (DifferenceKind.TYPE, "dev/pipe"),
    root_closed: (DifferenceKind.MODE, ""),
    setuid_of_the_root: (DifferenceKind.MODE, ""),
}
UNPACKED, COPIED = "etc/gone", "app"
"""Paths that only the lowest layer's folder has, and only that of the topmost layer."""


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_a_changed_copy_differs(copy: Path, attack: Callable[[Path], None]) -> None:
    """A change of a file that the topmost layer has from a layer below, which containers see, is found in this layer."""
    attack(folder_with(copy, COPIED))

    found = differences_in(copy)

    kind, path = ATTACKS[attack]
    assert (kind, path) in found
    assert {each for _, each in found} <= {path, "bin/su", "bin/su2"}


@pytest.mark.parametrize("layer", [UNPACKED, COPIED], ids=["unpacked", "copied"])
def test_a_link_to_a_moved_folder_differs(copy: Path, layer: str) -> None:
    """A folder that was moved, with a symbolic link in its place, is found though all its files are reached by their paths."""
    folder = folder_with(copy, layer)
    (folder / "usr").rename(folder / "moved")
    (folder / "usr").symlink_to("moved")

    assert "usr" in {path for _, path in differences_in(copy)}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_a_changed_layer_differs(copy: Path, attack: Callable[[Path], None]) -> None:
    """A change in the folder of the lowest layer is found there, by the layer's tar."""
    attack(folder_with(copy, UNPACKED))

    assert ATTACKS[attack][1] in {path for _, path in differences_in(copy)}


def test_the_same_change_in_all_layers_differs(copy: Path) -> None:
    """A file that was changed in the folders of all layers alike is found by the tar of the layer that it comes from."""
    for folder in (copy / "vfs/dir").iterdir():
        if (folder / "bin/tool").exists():
            content_changed(folder)

    assert differences_in(copy) == {(DifferenceKind.CONTENT, "bin/tool")}


def copied(file: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", file, to], check=True)


@pytest.mark.parametrize("path", ["etc/gone", "opaque/a"])
def test_a_file_that_a_layer_deletes_is_not_accepted(copy: Path, path: str) -> None:
    """A file of the lowest layer that the middle one deletes, by a whiteout or an opaque folder, may be in no later layer."""
    lowest, topmost = folder_with(copy, UNPACKED), folder_with(copy, COPIED)
    (middle,) = [
        each for each in (copy / "vfs/dir").iterdir() if (each / "opaque/c").exists() and not (each / COPIED).exists()
    ]
    for each in (middle, topmost):
        kept_times((each / path).parent, partial(copied, lowest / path, each / path))

    assert differences_in(copy) == {(DifferenceKind.EXTRA, path)}


def test_quick_compares_copies_without_contents(copy: Path) -> None:
    """--quick compares the attributes of copied files, and not their contents."""
    topmost = folder_with(copy, COPIED)
    content_changed(topmost)
    setuid_added(topmost)

    assert differences_in(copy, quick=True) == {(DifferenceKind.MODE, "bin/tool")}


# ---- containers, builds, and what is not checked


def test_changes_of_a_container_are_listed(engine: Engine) -> None:
    """A container's layer is a copy of its image, so its changes are listed; mount targets that Docker creates are not."""
    box = engine.run("create", "--network", "none", BOX)
    (upper,) = [
        each
        for each in (engine.root / "vfs/dir").iterdir()
        if (each / "bin/sleep").exists() and is_of(engine, box, each.name)
    ]
    (upper / "etc/mine").write_bytes(b"mine")
    (upper / "bin/tool").chmod(0o4755)
    (upper / "etc/gone").unlink()

    (report,) = [each for each in reports(engine.root) if each.what == "container"]
    engine.run("rm", "--force", box)

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())
    assert {(each.path, each.how) for each in report.changed} == {
        ("etc/mine", "added or changed"),
        ("bin/tool", "added or changed"),
        ("etc/gone", "removed"),
    }
    assert report.unchecked == ("what processes of containers on the driver vfs see",)


def is_of(engine: Engine, box: str, folder: str) -> bool:
    """Return whether a folder is a container's own layer."""
    mount = engine.root / "image/vfs/layerdb/mounts" / box / "mount-id"
    if mount.exists():
        return mount.read_text() == folder
    return (
        f'"{box}"' in (engine.root / "vfs-containers/containers.json").read_text()
        and folder in (engine.root / "vfs-containers/containers.json").read_text()
    )


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["docker-build", "buildkit"])
def test_built_images_are_clean(engine: Engine, tmp_path: Path, buildkit: str) -> None:
    """Images built with the driver vfs have no findings."""
    steps = (
        "RUN echo x > /etc/x; rm /etc/passwd; rm -r /opaque; mkdir /opaque; echo y > /opaque/y; ln /bin/tool /bin/tool2"
    )
    (tmp_path / "Dockerfile").write_text(f"FROM {BOX}\nCOPY Dockerfile /etc/\n{steps}\n")
    build = ("build", "--network", "none", "-t", f"built:{buildkit}", str(tmp_path))
    run(*engine.command, *build, env={"DOCKER_BUILDKIT": buildkit}).checked()

    (report,) = [each for each in reports(engine.root) if f"built:{buildkit}" in each.names]

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_a_container_with_other_owners_could_not_be_checked(engine: Engine) -> None:
    """With vfs Podman copies an image for a container with its own ID map; such a copy is not compared."""
    mapped = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    box = engine.run("create", "--network", "none", *mapped, BOX)

    (report,) = [each for each in reports(engine.root) if each.what == "container"]
    engine.run("rm", "--force", box)

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "copy of its image with other owners" in report.unknown[0]
