"""A folder of a store that is a symbolic link to another disk, which its engine follows."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.engines.linked_folders import FOLDERS
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.file_changes import rewritten
from tests.attacks.scrub.image import Layer, archive, base
from tests.attacks.scrub.stores import Store
from tests.attacks.scrub.users import disk
from tests.programs import program
from tests.real.tools import run

pytestmark = pytest.mark.real


DATABASES = {
    "docker": "volumes/metadata.db",
    "docker-containerd": "io.containerd.metadata.v1.bolt/meta.db",
    "containerd": "io.containerd.metadata.v1.bolt/meta.db",
}


def moved(store: Store, to: Path, name: str = "", target: str = "") -> Path:
    """Move a folder of a store, by default that of the layers, and leave a link to it."""
    folder = store.root / (name or store.layers[0].split("/")[0])
    folder.rename(to)
    folder.symlink_to(target or to)
    return to


@pytest.fixture(params=list(DATABASES))
def used(request: pytest.FixtureRequest, copy_of: Callable[[str], Store]) -> Iterator[Store]:
    """A store with a lock of its database, which shows that an engine of this host uses it."""
    store = copy_of(request.param)
    with (store.root / DATABASES[store.name]).open() as database:
        fcntl.flock(database, fcntl.LOCK_EX)
        yield store


@pytest.mark.parametrize("name", ["", "image", "io.containerd.content.v1.content", "io.containerd.metadata.v1.bolt"])
def test_a_folder_that_is_a_link_is_clean(used: Store, tmp_path: Path, name: str) -> None:
    """A store is checked through a link to one of its folders, absolute or relative, and is clean."""
    if not (used.root / name).is_dir():
        name = ""
    moved(used, tmp_path / "other disk", name)
    absolute = used.image_report()
    link = used.root / (name or used.layers[0].split("/")[0])
    link.unlink()
    link.symlink_to("../other disk")
    relative = used.image_report()

    for report in (absolute, relative):
        assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


def test_a_change_behind_a_link_is_found(used: Store, tmp_path: Path) -> None:
    """The files behind the link are those that are checked."""
    moved(used, tmp_path / "other")
    rewritten(used.at("bin/tool"), b"#!evil\n" + used.at("bin/tool").read_bytes()[7:])

    report = used.image_report()

    assert {(each.kind, each.path) for each in report.differences} == {(DifferenceKind.CONTENT, "bin/tool")}


def test_a_link_in_a_store_of_no_engine_could_not_be_checked(store: Store, tmp_path: Path) -> None:
    """In a store that no engine of this host uses, as on a disk of another host, a link is not followed."""
    moved(store, tmp_path / "other")

    found = store.scrub()

    assert {each.status for each in found} == {ReportStatus.UNKNOWN}
    assert "is a symbolic link to" in found[0].unknown[0]


@pytest.mark.parametrize("target", ["../missing", "/dev/null", "../../../../../../../../../missing"])
def test_a_link_to_no_folder_could_not_be_checked(used: Store, tmp_path: Path, target: str) -> None:
    """A link to nothing, or to a file, leaves the store unchecked: neither clean nor different."""
    moved(used, tmp_path / "other", target=target)

    found = used.scrub()

    assert {each.status for each in found} == {ReportStatus.UNKNOWN}
    assert "is a symbolic link to" in found[0].unknown[0]


def test_a_link_below_a_folder_of_the_store_is_not_followed(used: Store, tmp_path: Path) -> None:
    """Only an engine's folders directly in the store may be links: a layer's folder that is one is a difference."""
    layer = used.at("").parent
    layer.rename(tmp_path / "layer")
    layer.symlink_to(tmp_path / "layer")

    assert used.image_report().status is ReportStatus.DIFFERS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount_behind_a_link_is_found(used: Store, tmp_path: Path) -> None:
    """A clean copy mounted over a tampered file behind the link is found."""
    moved(used, tmp_path / "other")
    tool, copy = used.at("bin/tool").resolve(), tmp_path / "copy"
    subprocess.run(["cp", "-a", tool, copy], check=True)
    rewritten(tool, b"#!evil\n" + tool.read_bytes()[7:])
    subprocess.run([program("mount"), "--bind", copy, tool], check=True)
    try:
        report = used.image_report()
    finally:
        subprocess.run([program("umount"), "--lazy", tool], check=True)

    found = {(each.kind, each.path) for each in report.differences}
    assert (DifferenceKind.MOUNT, "bin/tool") in found
    # an engine that another test starts meanwhile has the mount in its namespace too, which is a finding of the store
    assert {(kind, path.endswith("bin/tool")) for kind, path in found} == {(DifferenceKind.MOUNT, True)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("configured", [True, False])
def test_a_link_is_followed_in_the_store_that_an_engine_is_configured_for(
    copy_of: Callable[[str], Store], tmp_path: Path, configured: bool
) -> None:
    """The link of a store in the folder that this host's containerd is configured to use is followed while it is stopped."""
    store = copy_of("containerd")
    moved(store, tmp_path / "elsewhere")
    config = tmp_path / "config.toml"
    config.write_text(f'version = 2\nroot = "{store.root if configured else tmp_path}"\n')
    mount = f"{program('mount')} --bind '{config}' /etc/containerd/config.toml"
    code = "from boltseal.cli.root import run; run()"
    argv = [program("unshare"), "--mount", program("sh"), "-c", f'{mount}; exec "$@"', "sh"]
    argv += [sys.executable, "-c", code, "scrub", "--root", str(store.root)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=False)

    assert done.returncode == (0 if configured else 3), done.stdout + done.stderr
    assert ("is a symbolic link to" in " ".join(done.stdout.split())) is not configured


@pytest.mark.slow
def test_a_link_in_a_users_own_store_is_followed(empty_home: None, tmp_path: Path) -> None:
    """The link of a rootless Podman store in the home of its owner is followed."""
    archive(tmp_path / "image.tar", [base()])
    (tmp_path / "image.tar").chmod(0o644)
    user = disk(tmp_path / "disk")
    podman = ("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--log-level", "error")
    try:
        subprocess.run([*user.as_user(), *podman, "load", "-q", "-i", tmp_path / "image.tar"], check=True)
        root = user.home / ".local/share/containers/storage"
        (root / "overlay").rename(user.home / "elsewhere")
        (root / "overlay").symlink_to(user.home / "elsewhere")
        code = "from boltseal.cli.root import run; run()"
        argv = [*user.as_root(), sys.executable, "-c", code, "scrub", "--root", str(root)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    finally:
        user.ended()
        servers.unmounted(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("modern", [False, True], ids=["docker", "docker-containerd"])
def test_a_daemon_whose_layers_are_behind_a_link_is_clean(empty_home: None, tmp_path: Path, modern: bool) -> None:
    """Images and running containers of a Docker daemon that was started with such a link have no findings."""
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    box.add("bin/sleep", kind=b"1", link="bin/box", mode=0o755)
    archive(tmp_path / "image.tar", [base(), box.done()], "shop/box:1", ["/bin/sleep", "1000"])
    name = "containerd/daemon/io.containerd.snapshotter.v1.overlayfs" if modern else "overlay2"
    link = tmp_path / "e/data" / name
    link.parent.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    link.symlink_to(tmp_path / "other")
    driver = "overlayfs" if modern else "overlay2"
    with servers.dockerd(tmp_path / "e", containerd_store=modern, driver=driver) as server:
        docker = ("docker", "-H", f"unix://{server.address}")
        run(*docker, "load", "-i", tmp_path / "image.tar").checked()
        start = ("run", "-d") if modern else ("create",)  # runc refuses to run it from a folder behind a link
        container = run(*docker, *start, "--network", "none", "shop/box:1").checked().strip()
        try:
            found = scrub(store_at(tmp_path / "e/data"), ScrubRequest(), lambda *_: None)
        finally:
            run(*docker, "rm", "--force", container).checked()

    assert link.is_symlink()
    assert {(each.status, each.differences, each.unknown) for each in found} == {(ReportStatus.HOLDS, (), ())}
    assert {each.what for each in found} == {"image", "container"}
    assert [bool(each.running) for each in found if each.what == "container"] == [modern]


def test_each_folder_that_may_be_a_link_has_one_name() -> None:
    """Folders that may be links are directly in the store."""
    assert not any(b"/" in each for each in FOLDERS)
