"""An engine with its own mount namespace: what its containers get is decided by the mounts there, not by those of scrub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.engines.containerd_store import SNAPSHOTS
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import NAME, Layer, archive, base, middle, top
from tests.attacks.scrub.stores import podman_on
from tests.attacks.scrub.users import disk
from tests.host.scrub.made_stores import DockerStore
from tests.polling import wait_until
from tests.programs import program
from tests.real.tools import run

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

BOX = "shop/box:1"
OF_ITS_OWN = ("unshare", "--mount")
PODMAN = ("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--log-level", "error")


@dataclass(frozen=True)
class Host:
    """An engine with its own mount namespace. `pid`: its process; `base`: the folder of its layers' folders."""

    root: Path
    pid: int
    base: str
    socket: str = ""

    def docker(self, *argv: str | Path) -> str:
        return run("docker", "-H", self.socket, *argv).checked().strip()

    def layer(self) -> Path:
        """Return the folder of the image's lowest layer."""
        folders = [each for each in (self.root / self.base).glob("*/*") if each.parent.name != "l"]
        return next(each for each in folders if (each / "bin/tool").exists())

    def enter(self, *argv: str | Path) -> None:
        """Run a command in the engine's mount namespace."""
        enter = (program("nsenter"), f"--mount=/proc/{self.pid}/ns/mnt")
        subprocess.run([*enter, *argv], check=True, stdout=subprocess.DEVNULL)

    @contextmanager
    def mounted(self, source: Path, target: Path) -> Iterator[None]:
        """Bind-mount scratch data in the engine's namespace only, for the duration of a test."""
        self.enter(program("mount"), "--bind", source, target)
        try:
            yield
        finally:
            self.enter(program("umount"), "--lazy", target)

    def reports(self) -> list[ScrubReport]:
        return scrub(store_at(self.root), ScrubRequest(), lambda *_: None)

    def report(self) -> ScrubReport:
        """Return the report of the image."""
        (report,) = [each for each in self.reports() if each.what == "image"]
        return report


def copied(path: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", path, to], check=True)
    return to


def evil_copy(layer: Path, to: Path) -> Path:
    copied(layer, to)
    (to / "bin/tool").write_bytes(b"evil")
    return to


def mounts_in(report: ScrubReport) -> set[str]:
    return {each.path for each in report.differences if each.kind is DifferenceKind.MOUNT}


def box(folder: Path) -> Path:
    """An archive of a runnable image."""
    layer = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    for name in ("sh", "sleep", "cat"):
        layer.add(f"bin/{name}", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "box.tar", [base(), layer.done()], BOX, ["/bin/sleep", "1000"])
    return folder / "box.tar"


def podman_service(folder: Path) -> Iterator[Host]:
    """Podman's API service on its own store."""
    archive(folder / "image.tar", [base(), middle(), top()])
    podman = podman_on(folder / "root", folder)
    run(*podman, "load", "-i", folder / "image.tar").checked()
    at = folder / "p.sock"
    argv = [*OF_ITS_OWN, *podman, "system", "service", "--time", "0", f"unix://{at}"]
    process = subprocess.Popen(argv, start_new_session=True)
    try:
        wait_until(at.exists, "the service listens")
        yield Host(folder / "root", process.pid, "overlay")
    finally:
        process.terminate()
        process.wait()
        servers.unmounted(folder)


@pytest.fixture(scope="module", params=["docker", "docker-containerd", "podman"])
def host(request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Each engine, started in its own mount namespace, with an image."""
    folder = tmp_path_factory.mktemp("h")
    if request.param == "podman":
        yield from podman_service(folder)
        return
    modern = request.param != "docker"
    driver = "overlayfs" if modern else "overlay2"
    with servers.dockerd(folder / "e", containerd_store=modern, driver=driver, before=OF_ITS_OWN) as server:
        root = folder / "e/data"
        if modern:
            root = root / "containerd/daemon"
        layers = f"{SNAPSHOTS.decode()}/snapshots" if modern else "overlay2"
        made = Host(root, server.pid, layers, f"unix://{server.address}")
        made.docker("load", "-i", box(folder))
        yield made


def test_a_mount_over_a_layer_of_the_driver_vfs_is_found(
    empty_home: None, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Other files that are mounted over a layer of the driver vfs, in Docker's namespace only, are found."""
    folder = tmp_path_factory.mktemp("v")
    with servers.dockerd(folder / "e", driver="vfs", before=OF_ITS_OWN) as server:
        host = Host(folder / "e/data", server.pid, "vfs", f"unix://{server.address}")
        host.docker("load", "-i", box(folder))
        (top,) = [each.parents[1] for each in host.root.glob("vfs/dir/*/bin/box")]
        with host.mounted(evil_copy(top, tmp_path / "evil"), top):
            seen = host.docker("run", "--rm", "--network", "none", BOX, "/bin/cat", "/bin/tool")
            report = host.report()
        after = host.report()

    assert seen == "evil"
    assert (report.status, mounts_in(report)) == (ReportStatus.DIFFERS, {str(top.relative_to(host.root))})
    assert (after.status, after.differences, after.unknown) == (ReportStatus.HOLDS, (), ())


def test_a_mount_over_a_layer_in_the_engines_namespace_is_found(host: Host, tmp_path: Path) -> None:
    """Other files that are mounted over a layer in the engine's namespace are what its next container gets; they are
    found."""
    layer = host.layer()
    with host.mounted(evil_copy(layer, tmp_path / "evil"), layer):
        seen = host.docker("run", "--rm", "--network", "none", BOX, "/bin/cat", "/bin/tool") if host.socket else "evil"
        report = host.report()
    after = host.report()

    assert seen == "evil"
    assert (report.status, mounts_in(report)) == (ReportStatus.DIFFERS, {str(layer.relative_to(host.root))})
    assert (after.status, after.differences, after.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.mark.parametrize("up", [1, 2])
def test_a_mount_above_a_layer_in_the_engines_namespace_is_found(host: Host, tmp_path: Path, up: int) -> None:
    """Other folders that are mounted over a layer's folder or over all layers in the engine's namespace are found."""
    folder = host.layer().parents[up - 1]
    with host.mounted(copied(folder, tmp_path / "copy"), folder):
        report = host.report()

    assert (report.status, mounts_in(report)) == (ReportStatus.DIFFERS, {str(folder.relative_to(host.root))})


def test_a_mount_in_a_layer_in_the_engines_namespace_is_found(host: Host, tmp_path: Path) -> None:
    """A mount on a single file of a layer in the engine's namespace is found."""
    path = host.layer() / "bin/tool"
    with host.mounted(copied(path, tmp_path / "copy"), path):
        report = host.report()

    assert mounts_in(report) == {str(path.relative_to(host.root))}


def test_another_store_at_the_same_path_could_not_be_checked(host: Host, tmp_path: Path) -> None:
    """A clean copy mounted over the whole store, but not in the engine's namespace, says nothing about the engine's
    store."""
    copy = copied(host.root, tmp_path / "copy")
    subprocess.run([program("mount"), "--no-canonicalize", "--bind", copy, host.root], check=True)
    try:
        report = host.report()
    finally:
        subprocess.run([program("umount"), "--no-canonicalize", "--lazy", host.root], check=True)

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "sees another folder" in " ".join(report.unknown)
    assert f"nsenter --target {host.pid} --mount" in " ".join(report.unknown)


def test_equal_mounts_in_the_engines_namespace_are_clean(host: Host) -> None:
    """A folder of the store that is mounted on itself in the engine's namespace shows the same files, so it is clean."""
    layers = host.root / host.base
    with host.mounted(layers, layers), host.mounted(host.layer(), host.layer()):
        report = host.report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


def test_mounts_of_an_engine_in_its_own_namespace_are_clean(host: Host) -> None:
    """Running containers and mounted images, whose mounts exist in the engine's namespace only, have no findings."""
    boxes = []
    if host.socket:
        boxes = [host.docker("run", "-d", "--network", "none", BOX) for _ in range(2)]
    else:
        host.enter(*podman_on(host.root, host.root.parent), "image", "mount", NAME)
    try:
        found = host.reports()
        mounted = Path(f"/proc/{host.pid}/mountinfo").read_text()
    finally:
        if boxes:
            host.docker("rm", "--force", *boxes)
        else:
            host.enter(*podman_on(host.root, host.root.parent), "image", "unmount", NAME)

    assert " overlay overlay " in mounted
    assert {(each.status, each.differences, each.unknown) for each in found} == {(ReportStatus.HOLDS, (), ())}
    assert sum(each.what == "container" for each in found) == len(boxes)


def test_an_engines_namespace_that_can_not_be_read_could_not_be_checked(host: Host) -> None:
    """Without CAP_SYS_PTRACE, the files that an engine in its own namespace sees are unknown."""
    code = "from boltseal.cli.root import run; run()"
    dropped = (program("setpriv"), "--bounding-set=-sys_ptrace")
    argv = [*dropped, sys.executable, "-c", code, "scrub", "--root", str(host.root)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=False)

    assert done.returncode == 3, done.stdout + done.stderr
    assert "CAP_SYS_PTRACE" in done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout


def test_a_mount_in_the_namespace_of_rootless_podman_is_found(empty_home: None, tmp_path: Path) -> None:
    """Rootless Podman mounts in the namespace of its pause process, where its user can mount over layers; that is found."""
    archive(tmp_path / "image.tar", [base(), middle(), top()])
    (tmp_path / "image.tar").chmod(0o644)
    user = disk(tmp_path / "disk")
    podman = " ".join(PODMAN)

    def as_user(*argv: str | Path) -> str:
        done = subprocess.run([*user.as_user(), *PODMAN, *argv], check=False, capture_output=True, text=True)

        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        as_user("load", "-q", "-i", tmp_path / "image.tar")
        root = user.home / ".local/share/containers/storage"
        clean = [each.status for each in scrub(store_at(root), ScrubRequest(), lambda *_: None)]
        layer = next(each for each in (root / "overlay").glob("*/diff") if (each / "bin/tool").exists())
        evil = evil_copy(layer, user.root / "evil")
        as_user("unshare", "sh", "-c", f"{podman} image mount {NAME}; mount --bind {evil} {layer}")
        seen = as_user(
            "unshare",
            "sh",
            "-c",
            f"{podman} create --network none --name x {NAME} >&2; cat $({podman} mount x)/bin/tool",
        )
        found = scrub(store_at(root), ScrubRequest(), lambda *_: None)
    finally:
        user.ended()
        servers.unmounted(tmp_path)

    assert clean == [ReportStatus.HOLDS]
    assert seen == "evil"
    assert [(each.what, each.status) for each in found] == [
        ("image", ReportStatus.DIFFERS),
        ("container", ReportStatus.DIFFERS),
    ]
    assert {path for each in found for path in mounts_in(each)} == {str(layer.relative_to(root))}


def test_a_mount_of_containerd_is_found(originals_of_containerd: Host, tmp_path: Path) -> None:
    """A mount over a layer in containerd's own namespace is found."""
    host = originals_of_containerd
    with host.mounted(evil_copy(host.layer(), tmp_path / "evil"), host.layer()):
        report = host.report()

    assert mounts_in(report) == {str(host.layer().relative_to(host.root))}


@pytest.fixture
def originals_of_containerd(empty_home: None, tmp_path: Path) -> Iterator[Host]:
    """containerd, started in its own mount namespace, with an image that ctr unpacked."""
    archive(tmp_path / "image.tar", [base(), middle(), top()])
    to = f"oci-archive:{tmp_path}/oci.tar:localhost/{NAME}"
    run("skopeo", "--insecure-policy", "copy", f"docker-archive:{tmp_path}/image.tar", to).checked()
    with servers.containerd(tmp_path / "e", before=OF_ITS_OWN) as server:
        ctr = ("ctr", "--address", server.address, "images")
        run(*ctr, "import", "--snapshotter", "overlayfs", tmp_path / "oci.tar").checked()
        yield Host(tmp_path / "e/root", server.pid, f"{SNAPSHOTS.decode()}/snapshots")


@pytest.mark.parametrize("is_used", [True, False])
def test_another_folder_counts_only_if_an_engine_uses_it(tmp_path: Path, is_used: bool) -> None:
    """A service with its own /var sees other folders there; that matters only for a store which is in use there."""
    for name in ("here", "there"):
        store = DockerStore.at(tmp_path / name / "at")
        store.image("good:1", {"etc/good": b"good"})
        (store.root / "volumes").mkdir()
        (store.root / "volumes/metadata.db").touch()
    code = f"""
import fcntl, subprocess, sys
subprocess.run(["mount", "--bind", "{tmp_path}/there", "{tmp_path}/here"], check=True)
open("/proc/self/comm", "w").write("dockerd")
if {is_used}:
    lock = open("{tmp_path}/here/at/store/volumes/metadata.db")
    fcntl.flock(lock, fcntl.LOCK_SH)
print(flush=True)
sys.stdin.readline()
"""
    argv = [*OF_ITS_OWN, sys.executable, "-c", code]
    engine = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"\n"
        (report,) = scrub(store_at(tmp_path / "here/at/store"), ScrubRequest(), lambda *_: None)
    finally:
        engine.communicate(b"\n")

    assert report.status is (ReportStatus.UNKNOWN if is_used else ReportStatus.HOLDS)
    assert ("sees another folder" in " ".join(report.unknown)) is is_used


IN_ANOTHER_ROOT = """
import fcntl, os, subprocess, sys
root, store, evil, layer = sys.argv[1:]
at = f"{root}/engine"
os.makedirs(at)
subprocess.run(["mount", "--bind", store, at], check=True)
if evil:
    subprocess.run(["mount", "--bind", evil, f"{at}/{layer}"], check=True)
lock = open(f"{store}/volumes/metadata.db")
fcntl.flock(lock, fcntl.LOCK_SH)
os.chroot(root)
print(flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("is_evil", [True, False])
def test_an_engine_of_any_name_in_another_root_is_found_by_its_lock(tmp_path: Path, is_evil: bool) -> None:
    """An engine in a container sees the store at another path and may have any name; it is found by a lock that it holds."""
    store = DockerStore.at(tmp_path / "store")
    store.image("good:1", {"etc/good": b"good", "bin/tool": b"tool"})
    (store.root / "volumes").mkdir()
    (store.root / "volumes/metadata.db").touch()
    layer = store.layer().relative_to(store.root)
    evil = evil_copy(store.layer(), tmp_path / "evil") if is_evil else ""
    argv = [*OF_ITS_OWN, sys.executable, "-c", IN_ANOTHER_ROOT, tmp_path / "other", store.root, evil, layer]
    engine = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"\n"
        (report,) = scrub(store_at(store.root), ScrubRequest(), lambda *_: None)
    finally:
        engine.communicate(b"\n")

    assert mounts_in(report) == ({str(layer)} if is_evil else set())
    assert (report.status is ReportStatus.HOLDS) is not is_evil
