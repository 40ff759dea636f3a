"""Names beside `diff` in a layer's folder: engines mount some of them, so any unknown name is a difference."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.layer_folder import DOCKER_NAMES, PODMAN_NAMES
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import NAME, Layer, archive, base, middle, top
from tests.attacks.scrub.stores import Store, podman_on
from tests.programs import program
from tests.real.tools import run

pytestmark = pytest.mark.real

RUNNING = ("-d", "--network", "none", "--pids-limit", "0")


@pytest.fixture
def podman(copy_of: Callable[[str], Store]) -> Store:
    """A copy of Podman's store that Podman accepts, because its database has the new path."""
    copy = copy_of("podman")
    (copy.root / "db.sql").unlink()
    return copy


@pytest.fixture(params=["docker", "podman"])
def linked(request: pytest.FixtureRequest, copy_of: Callable[[str], Store]) -> Store:
    """Stores whose layer folders have stack links and lists of lower layers."""
    return copy_of(request.param)


def differences_in(report: ScrubReport) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for each in report.differences}


def below(store: Store, path: Path) -> str:
    return str(path.relative_to(store.root))


def test_a_second_folder_that_podman_mounts_below_a_layer_differs(podman: Store, tmp_path: Path) -> None:
    """`diff1`, which Podman mounts below `diff`, adds files to the image; it is a difference though `diff` is
    unchanged."""
    planted = podman.at("", 1).parent / "diff1"
    planted.mkdir()
    (planted / "evil").write_bytes(b"evil")

    report = podman.image_report()
    mounted = run(*podman_on(podman.root, tmp_path), "image", "mount", NAME).checked().strip()
    seen = (Path(mounted) / "evil").read_bytes()

    assert seen == b"evil"
    assert (report.status, differences_in(report)) == (
        ReportStatus.DIFFERS,
        {(DifferenceKind.STACK, below(podman, planted))},
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_composefs_image_that_replaces_a_layer_differs(podman: Store, layer: int) -> None:
    """`composefs-data/composefs.blob`, which Podman mounts instead of `diff`, is a difference."""
    planted = podman.at("", layer).parent / "composefs-data"
    planted.mkdir()
    (planted / "composefs.blob").write_bytes(b"evil")

    assert (DifferenceKind.STACK, below(podman, planted)) in differences_in(podman.image_report())


def test_a_layer_that_is_kept_for_composefs_could_not_be_checked(podman: Store) -> None:
    """A composefs layer stores files under their digests, so it can't be compared by name; it could not be checked."""
    diff = podman.at("", 1)
    shutil.rmtree(diff)
    (diff / "0a").mkdir(parents=True)
    (diff.parent / "composefs-data").mkdir()

    report = podman.image_report()

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "composefs" in report.unknown[0]


@pytest.mark.parametrize("name", ["diff2", "anything", ".hidden", "composefs.blob", "committed.old"])
def test_an_unknown_name_is_a_difference(linked: Store, name: str) -> None:
    """An unknown name in a layer's folder is a difference, because a present or future engine could use it."""
    (linked.at("", 0).parent / name).touch()

    report = linked.image_report()

    assert (report.status, differences_in(report)) == (
        ReportStatus.DIFFERS,
        {(DifferenceKind.STACK, below(linked, linked.at("", 0).parent / name))},
    )


@pytest.mark.parametrize("engine", ["docker-containerd", "containerd"])
@pytest.mark.parametrize("name", ["diff1", "layer.erofs", "merged", ".hidden"])
def test_an_unknown_name_in_a_snapshots_folder_is_a_difference(
    copy_of: Callable[[str], Store], engine: str, name: str
) -> None:
    """A name beside `fs` and `work` in the folder of a snapshot of containerd is a difference."""
    store = copy_of(engine)
    planted = store.at("", 1).parent / name
    planted.mkdir()

    report = store.image_report()

    assert (report.status, differences_in(report)) == (
        ReportStatus.DIFFERS,
        {(DifferenceKind.STACK, below(store, planted))},
    )


@pytest.mark.parametrize("name", ["diff1", "composefs-data", "empty", "mapped"])
def test_podmans_names_differ_in_dockers_store(copy_of: Callable[[str], Store], name: str) -> None:
    """Names that only Podman creates are differences in Docker's store."""
    docker = copy_of("docker")
    (docker.at("", 2).parent / name).mkdir()

    assert (DifferenceKind.STACK, below(docker, docker.at("", 2).parent / name)) in differences_in(
        docker.image_report()
    )


def a_link(path: Path) -> None:
    if path.is_dir():
        path.rename(path.parents[2] / "aside")
    else:
        path.unlink(missing_ok=True)
    path.symlink_to("/tmp")


def a_pipe(path: Path) -> None:
    if path.is_dir():
        path.rename(path.parents[2] / "aside")
    else:
        path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["diff", "link", "lower", "work", "merged"])
@pytest.mark.parametrize("attack", [a_link, a_pipe], ids=lambda each: each.__name__)
def test_a_known_name_of_another_type_is_a_difference(linked: Store, attack: Callable[[Path], None], name: str) -> None:
    """A known name of another file type is a difference: an engine would follow a link and mount its target."""
    path = linked.at("", 2).parent / name
    attack(path)

    report = linked.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert DifferenceKind.STACK in {each.kind for each in report.differences}


def test_files_in_podmans_empty_folder_are_a_difference(podman: Store) -> None:
    """Files in Podman's folder `empty`, which is the lower folder of some mounts, are a difference."""
    planted = podman.at("", 0).parent / "empty" / "evil"
    planted.touch()

    assert differences_in(podman.image_report()) == {(DifferenceKind.STACK, below(podman, planted))}


@pytest.mark.parametrize("name", ["committed", ".tmp-committed123", ".tmp-lower4"])
def test_dockers_temporary_files_are_clean(copy_of: Callable[[str], Store], name: str) -> None:
    """Temporary files that Docker leaves after a crash are not findings."""
    docker = copy_of("docker")
    (docker.at("", 1).parent / name).touch()

    assert docker.image_report().status is ReportStatus.HOLDS


# ---- real engines in all their states


def box(folder: Path) -> Path:
    """An archive of a runnable image."""
    layer = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    layer.add("bin/sleep", kind=b"1", link="bin/box", mode=0o755).add("bin/sh", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "box.tar", [base(), layer.done()], "shop/box:1", ["/bin/sleep", "1000"])
    archive(folder / "image.tar", [base(), middle(), top()])
    return folder / "box.tar"


def names_in(layers: Path) -> set[bytes]:
    """Return every name in the folders of all layers."""
    return {os.fsencode(each.name) for folder in layers.iterdir() if folder.name != "l" for each in _inside(folder)}


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def statuses(root: Path) -> set[tuple[str, ReportStatus]]:
    found = scrub(store_at(root), ScrubRequest(), lambda *_: None)

    assert [(each.ref, each.differences) for each in found if each.differences] == []
    return {(each.what, each.status) for each in found if each.status is not ReportStatus.UNCHECKED}


@pytest.mark.slow
def test_the_folders_of_podman_are_clean_in_every_state(tmp_path: Path) -> None:
    """Podman's layer folders have no findings after load, mount, unmount, build, run, stop, commit and remove."""
    podman, root = (*podman_on(tmp_path / "root", tmp_path), "--runtime", "runc"), tmp_path / "root"
    box(tmp_path)
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text("FROM shop/box:1\nRUN echo x > /x\nRUN rm /x\n")
    met: set[bytes] = set()
    try:
        for steps in (
            (("load", "-i", tmp_path / "box.tar"), ("load", "-i", tmp_path / "image.tar")),
            (("image", "mount", "shop/box:1"),),
            (("image", "unmount", "shop/box:1"),),
            (("build", "--isolation", "chroot", "--network", "host", "--layers",
              "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "-t", "built:1", tmp_path / "context"),),
            (("run", *RUNNING, "--name", "one", "shop/box:1"), ("create", "--network", "none", "--name", "two", "built:1")),
            (("mount", "two"),),
            (("stop", "--time", "0", "one"), ("unmount", "two"), ("commit", "one", "made:1")),
            (("rm", "one", "two"), ("rmi", "built:1")),
        ):  # fmt: skip
            for step in steps:
                run(*podman, *step).checked()
            met |= names_in(root / "overlay")

            assert {status for _, status in statuses(root)} == {ReportStatus.HOLDS}
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0")
        servers.unmounted(tmp_path)

    assert {b"diff", b"link", b"lower", b"work", b"merged", b"empty"} <= met <= PODMAN_NAMES.known.keys()


@pytest.mark.slow
def test_the_folders_of_docker_are_clean_in_every_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Docker's layer folders have no findings after load, both kinds of build, run, stop, commit and remove."""
    folder = tmp_path_factory.mktemp("s")
    box(folder)
    (folder / "context").mkdir()
    (folder / "context/Dockerfile").write_text("FROM shop/box:1\nRUN echo x > /x\nRUN rm /x\n")
    met: set[bytes] = set()
    with servers.dockerd(folder / "engine", driver="overlay2") as server:
        docker, root = ("docker", "-H", f"unix://{server.address}"), folder / "engine/data"

        def done(*step: str | Path, **environment: str) -> None:
            run(*docker, *step, env=environment or None).checked()

        def looked() -> None:
            nonlocal met
            met |= names_in(root / "overlay2")

            assert {status for _, status in statuses(root)} == {ReportStatus.HOLDS}

        done("load", "-i", folder / "box.tar")
        done("load", "-i", folder / "image.tar")
        looked()
        for kind in ("0", "1"):
            done("build", "--network", "none", "-t", f"built:{kind}", folder / "context", DOCKER_BUILDKIT=kind)
        looked()
        done("run", "-d", "--network", "none", "--name", "one", "shop/box:1")
        done("create", "--network", "none", "--name", "two", "built:1")
        looked()
        done("kill", "one")
        done("commit", "one", "made:1")
        looked()
        done("rm", "-f", "one", "two")
        done("rmi", "built:0")
        looked()

    assert {b"diff", b"link", b"lower", b"work", b"merged", b"committed"} <= met <= DOCKER_NAMES.known.keys()


def test_the_folders_of_podman_are_clean_while_an_image_is_removed(podman: Store, tmp_path: Path) -> None:
    """Names that disappear during the check are no difference."""
    removing = subprocess.Popen([*podman_on(podman.root, tmp_path), "rmi", "--force", NAME], stdout=subprocess.DEVNULL)
    try:
        while removing.poll() is None:
            found = scrub(store_at(podman.root), ScrubRequest(), lambda *_: None)

            assert [each.differences for each in found if each.differences] == []
    finally:
        removing.wait()
