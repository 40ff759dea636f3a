"""Attacks on containers whose image layers match, or seem to match during the check."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.rotation import Rotation, RotationState
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.changing_containers import changing_command, wait_until_changed
from tests.attacks.scrub.image import Layer, archive, base
from tests.attacks.scrub.stores import podman_on
from tests.polling import wait_until
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

BOX = "shop/box:1"


@dataclass(frozen=True)
class Host:
    """A running Docker daemon with a runnable image; the folders of the image's two layers are relative to `root`."""

    name: str
    root: Path
    socket: str

    def docker(self, *argv: str | Path) -> str:
        return run("docker", "-H", self.socket, *argv).checked().strip()

    def created(self) -> str:
        return self.docker("create", "--network", "none", BOX)

    def upper(self, box: str) -> Path:
        """Return the container's own writable layer."""
        if self.name == "docker":
            mount = (self.root / "image/overlay2/layerdb/mounts" / box / "mount-id").read_text()
            return self.root / "overlay2" / mount / "diff"
        mounted = Path("/proc/self/mountinfo").read_text()
        (line,) = [each for each in mounted.splitlines() if f"/{box} " in each]
        return Path(line.partition("upperdir=")[2].partition(",")[0])

    def report(self, box: str) -> ScrubReport:
        """Return the report of a container."""
        found = scrub(store_at(self.root), ScrubRequest(), lambda *_: None)
        (report,) = [each for each in found if each.what == "container" and each.id == box]
        return report


@pytest.fixture(scope="module", params=["docker", "docker-containerd"])
def host(request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Docker daemon with its classic store, and one with containerd's."""
    folder = tmp_path_factory.mktemp(request.param)
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    box.add("bin/sh", kind=b"1", link="bin/box", mode=0o755).add("bin/sleep", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "image.tar", [base(), box.done()], BOX, ["/bin/sleep", "1000"])
    modern = request.param != "docker"
    driver = "overlayfs" if modern else "overlay2"
    with servers.dockerd(folder / "engine", containerd_store=modern, driver=driver) as server:
        host = Host(request.param, folder / "engine" / "data", f"unix://{server.address}")
        host.docker("load", "-i", folder / "image.tar")
        yield host
        boxes = host.docker("ps", "--all", "--quiet").split()
        if boxes:
            host.docker("rm", "--force", *boxes)


@pytest.fixture
def running(host: Host) -> Iterator[str]:
    """Return a running container."""
    box = host.docker("run", "-d", "--network", "none", BOX)
    yield box
    host.docker("rm", "--force", box)


def test_a_running_container_is_checked_through_its_process(host: Host, running: str) -> None:
    """A running container is found by the kernel's mount table, not by Docker's metadata."""
    report = host.report(running)

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())
    assert report.ref == host.docker("inspect", "--format", "{{.Name}}", running).strip("/")
    assert report.running == int(host.docker("inspect", "--format", "{{.State.Pid}}", running))


def test_the_first_process_is_compared_whatever_the_process_ids_are(host: Host) -> None:
    """The first process of a container is compared, even if another one in it has a lower ID, as after IDs have wrapped."""
    enter = 'read pid; exec nsenter --target "$pid" --mount /bin/sleep 1000'
    with subprocess.Popen([program("sh"), "-c", enter], stdin=subprocess.PIPE, text=True) as other:
        box = host.docker("run", "-d", "--network", "none", BOX)
        first = host.docker("inspect", "--format", "{{.State.Pid}}", box)
        assert other.stdin is not None
        other.stdin.write(f"{first}\n")
        other.stdin.flush()
        wait_until(lambda: in_namespace_of(first, other.pid), "the process is in the container")
        report = host.report(box)
        other.kill()
    host.docker("rm", "--force", box)

    assert other.pid < int(first)
    assert (report.status, report.running) == (ReportStatus.HOLDS, int(first))


def in_namespace_of(first: str, pid: int) -> bool:
    """Return whether a process is in the mount namespace of a container's first process."""
    return Path(f"/proc/{pid}/ns/mnt").readlink() == Path(f"/proc/{first}/ns/mnt").readlink()


@pytest.mark.parametrize(
    "host", ["docker"], indirect=True
)  # containerd mounts folders and not links, so the next test covers it
def test_a_link_redirected_only_for_the_start_is_found(host: Host) -> None:
    """Layers, links and mount table match again after the start; only the container's process still sees the other
    tree."""
    box = host.created()
    mount = (host.root / "image/overlay2/layerdb/mounts" / box / "mount-id").read_text()
    lowest = (host.root / "overlay2" / mount / "lower").read_text().split(":")[-1]
    link = host.root / "overlay2" / lowest
    true = link.readlink()
    evil = host.root.parent / "evil"
    subprocess.run(["cp", "-a", link.resolve(), evil], check=True)
    (evil / "etc/passwd").write_bytes(b"evil:x:0:0\n")
    link.unlink()
    link.symlink_to(evil)
    host.docker("start", box)
    link.unlink()
    link.symlink_to(true)

    report = host.report(box)
    host.docker("rm", "--force", box)

    assert {(each.kind, each.path) for each in report.differences} == {(DifferenceKind.RUNNING, "etc/passwd")}


def test_a_layer_swapped_only_for_the_start_is_found(host: Host) -> None:
    """A layer whose folder was renamed only during the container's start is found, in every store."""
    box = host.created()
    (layer,) = [each.parent.parent for each in host.root.rglob("etc/gone") if "rootfs" not in each.parts]
    evil, aside = host.root / "evil", host.root / "aside"
    subprocess.run(["cp", "-a", layer, evil], check=True)
    before = (evil / "etc/passwd").stat()
    (evil / "etc/passwd").write_bytes(b"evil:x:0:0\n")
    os.utime(evil / "etc/passwd", ns=(before.st_atime_ns, before.st_mtime_ns))
    (evil / "bin/evil").write_bytes(b"evil")
    layer.rename(aside)
    evil.rename(layer)
    host.docker("start", box)
    layer.rename(evil)
    aside.rename(layer)

    report = host.report(box)
    host.docker("rm", "--force", box)
    shutil.rmtree(evil)

    found = {(each.kind, each.path) for each in report.differences}
    assert {(DifferenceKind.RUNNING, "etc/passwd"), (DifferenceKind.RUNNING, "bin/evil")} <= found


def test_a_rotating_share_also_reads_what_running_containers_see(host: Host) -> None:
    """Content that only a container's process sees is found by one of N runs with --share, and by every later one."""
    box = host.created()
    (layer,) = [each.parent.parent for each in host.root.rglob("etc/gone") if "rootfs" not in each.parts]
    evil, aside = host.root / "evil", host.root / "aside"
    subprocess.run(["cp", "-a", layer, evil], check=True)
    before = (evil / "etc/passwd").stat()
    (evil / "etc/passwd").write_bytes(b"e" * before.st_size)
    os.utime(evil / "etc/passwd", ns=(before.st_atime_ns, before.st_mtime_ns))
    layer.rename(aside)
    evil.rename(layer)
    host.docker("start", box)
    layer.rename(evil)
    aside.rename(layer)

    state, reports = RotationState(), []
    for now_s in range(6):
        rotation = Rotation(3, state, 1_700_000_000 + now_s)
        found = scrub(store_at(host.root), ScrubRequest(rotation=rotation), lambda *_: None)
        state = rotation.end()
        reports += [each for each in found if each.id == box]
    host.docker("rm", "--force", box)
    shutil.rmtree(evil)

    first = next(at for at, each in enumerate(reports) if each.status is ReportStatus.DIFFERS)
    assert first < 3
    assert [each.unread for each in reports] == [1] * first + [0] * (6 - first)
    assert {(each.kind, each.path) for report in reports[first:] for each in report.differences} == {
        (DifferenceKind.RUNNING, "etc/passwd")
    }


def test_a_bind_mount_in_a_container_is_listed(host: Host, tmp_path: Path) -> None:
    """A bind mount is listed because it hides a file of the image, but it is not a difference."""
    (tmp_path / "mine").write_bytes(b"mine")
    box = host.docker("run", "-d", "--network", "none", "-v", f"{tmp_path}/mine:/etc/passwd", BOX)

    report = host.report(box)
    host.docker("rm", "--force", box)

    assert (report.status, report.differences) == (ReportStatus.HOLDS, ())
    assert ("etc/passwd", "mounted over") in {(each.path, each.how) for each in report.changed}


BUSY = "mkdir /w; while :; do : > /w/a; : > /etc/b; mkdir /w/d; : > /w/d/c; rm /w/a /etc/b; rm -r /w/d; done"


def test_a_busy_container_is_clean(host: Host) -> None:
    """Files that a container creates and removes during the check are not findings."""
    box = host.docker("run", "-d", "--network", "none", BOX, "/bin/sh", "-c", BUSY)

    found = [host.report(box) for _ in range(8)]
    host.docker("rm", "--force", box)

    assert {(each.status, each.differences, each.unknown) for each in found} == {(ReportStatus.HOLDS, (), ())}


def test_a_container_removed_during_the_check_is_gone(host: Host) -> None:
    """A container that is removed during the check is neither a difference nor a doubt about the host."""
    box = host.docker("run", "-d", "--network", "none", BOX)
    removed: list[str] = []

    def remove(*_: int) -> None:
        removed.append(host.docker("rm", "--force", box) if not removed else "")

    found = scrub(store_at(host.root), ScrubRequest(), remove)

    assert {each.status for each in found if each.id == box} == {ReportStatus.GONE}
    assert outcome(found) is ReportStatus.HOLDS


def test_containers_that_come_and_go_leave_a_host_clean(host: Host) -> None:
    """Short-lived containers, restarts, and processes that end meanwhile raise no doubt, in any of ten checks."""
    host.docker("run", "-d", "--restart", "always", "--network", "none", BOX, "/bin/sleep", "0.3")
    done = threading.Event()

    def run_boxes() -> None:
        while not done.is_set():
            host.docker("run", "--rm", "--network", "none", BOX, "/bin/sleep", "0.2")

    threads = [threading.Thread(target=run_boxes) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        found = [scrub(store_at(host.root), ScrubRequest(), lambda *_: None) for _ in range(10)]
    finally:
        done.set()
        for each in threads:
            each.join()
        host.docker("rm", "--force", *host.docker("ps", "--all", "--quiet").split())

    doubts = [(each.what, each.unknown) for reports in found for each in reports if each.unknown]
    assert doubts == []
    assert {outcome(each) for each in found} == {ReportStatus.HOLDS}
    assert {each.what for reports in found for each in reports} - {"build-cache"} == {"image", "container"}


@pytest.mark.parametrize("host", ["docker"], indirect=True)
def test_a_container_recorded_with_another_containers_layer_could_not_be_checked(host: Host) -> None:
    """Docker's record was pointed at the layer of a stopped container, so no process can be compared."""
    box, other = host.docker("run", "-d", "--network", "none", BOX), host.created()
    mounts = host.root / "image/overlay2/layerdb/mounts"
    true = {name: (mounts / box / name).read_text() for name in ("mount-id", "init-id")}
    for name in true:
        (mounts / box / name).write_text((mounts / other / name).read_text())

    report = host.report(box)
    for name, id_ in true.items():
        (mounts / box / name).write_text(id_)
    host.docker("rm", "--force", box, other)

    assert report.status is ReportStatus.UNKNOWN
    assert "which the store records for it, runs on" in report.unknown[0]


def test_a_capability_that_only_the_process_has_is_found(host: Host) -> None:
    """A layer that was swapped only for the start, and differs only in a capability, is found through the process."""
    box = host.created()
    (layer,) = [each.parent.parent for each in host.root.rglob("etc/gone") if "rootfs" not in each.parts]
    evil, aside = host.root / "evil", host.root / "aside"
    subprocess.run(["cp", "-a", layer, evil], check=True)
    os.setxattr(evil / "bin/tool", "security.capability", bytes.fromhex("0100000200000080" + "00" * 12))
    layer.rename(aside)
    evil.rename(layer)
    host.docker("start", box)
    layer.rename(evil)
    aside.rename(layer)

    report = host.report(box)
    host.docker("rm", "--force", box)
    shutil.rmtree(evil)

    assert {(each.kind, each.path) for each in report.differences} == {(DifferenceKind.RUNNING, "bin/tool")}


def test_a_file_planted_in_the_init_layer_differs(host: Host) -> None:
    """A file in Docker's -init layer, which belongs to neither the image nor the container, is a difference."""
    box = host.created()
    (init,) = [each for each in inits(host) if not (each / "evil").exists()]
    (init / "evil").write_bytes(b"evil")
    (init / "etc/hosts").write_bytes(b"6.6.6.6 registry\n")

    report = host.report(box)
    host.docker("rm", "--force", box)

    assert {(each.kind, each.path) for each in report.differences} == {
        (DifferenceKind.EXTRA, "evil"),
        (DifferenceKind.EXTRA, "etc/hosts"),
    }


def opaque(folder: Path) -> None:
    os.setxattr(folder, "trusted.overlay.opaque", b"y")


def redirected(folder: Path) -> None:
    os.setxattr(folder, "trusted.overlay.redirect", b"/bin")


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def given_away(folder: Path) -> None:
    os.chown(folder, 1000, -1)


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        (opaque, DifferenceKind.OPAQUE),
        (redirected, DifferenceKind.XATTR),
        (open_to_all, DifferenceKind.MODE),
        (given_away, DifferenceKind.OWNER),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_folder_of_the_init_layer_that_replaces_the_images_differs(
    host: Host, attack: Callable[[Path], None], kind: DifferenceKind
) -> None:
    """A folder in the -init layer replaces the image's folder of that name, even if it is empty, and is a difference."""
    before = set(inits(host))
    box = host.created()
    (init,) = set(inits(host)) - before
    attack(init / "etc")

    report = host.report(box)
    host.docker("rm", "--force", box)

    assert {(each.kind, each.path) for each in report.differences} == {(kind, "etc")}


@pytest.mark.parametrize("path", ["", "etc", "etc/hosts", ".dockerenv"])
def test_a_flag_in_the_init_layer_differs(host: Host, path: str) -> None:
    """overlayfs copies the flags of the topmost layer into the container, so an immutable name in the -init layer is found."""
    before = set(inits(host))
    box = host.created()
    (init,) = set(inits(host)) - before
    run("chattr", "+i", init / path).checked()

    report = host.report(box)
    run("chattr", "-i", init / path).checked()
    host.docker("rm", "--force", box)

    assert {(each.kind, each.path) for each in report.differences} == {(DifferenceKind.FLAG, path)}


def inits(host: Host) -> list[Path]:
    """Return the existing -init layers."""
    return [
        each.parent
        for each in host.root.rglob(".dockerenv")
        if "rootfs" not in each.parts and "merged" not in each.parts
    ]


def test_what_a_container_changed_is_listed_and_is_no_difference(host: Host) -> None:
    """Changes in a container's own layer are listed but are not differences."""
    box = host.docker(
        "run", "-d", "--network", "none", BOX, *changing_command("echo x > /etc/mine; echo y > /etc/passwd")
    )
    wait_until_changed(lambda: host.docker("logs", box))

    report = host.report(box)
    host.docker("rm", "--force", box)

    assert report.status is ReportStatus.HOLDS
    assert {"etc/mine", "etc/passwd"} <= {change.path for change in report.changed}


def test_a_podman_container_on_other_layers_differs(tmp_path: Path) -> None:
    """A Podman container differs when the parent of its own layer was changed."""
    podman = podman_on(tmp_path / "root", tmp_path)
    archive(tmp_path / "image.tar", [base(), Layer().add("a", b"a").done()], BOX)
    run(*podman, "load", "-i", tmp_path / "image.tar").checked()
    run(*podman, "create", "--network", "none", BOX).checked()
    clean = [each.status for each in scrub(store_at(tmp_path / "root"), ScrubRequest(), lambda *_: None)]
    (lower,) = [
        each for each in (tmp_path / "root/overlay").glob("*/lower") if each.read_text().count("l/") == 2
    ]  # fmt: skip
    lower.write_text(lower.read_text().split(":")[1])

    found = scrub(store_at(tmp_path / "root"), ScrubRequest(), lambda *_: None)

    assert set(clean) == {ReportStatus.HOLDS}
    assert {each.kind for report in found if report.what == "container" for each in report.differences} == {
        DifferenceKind.STACK
    }
