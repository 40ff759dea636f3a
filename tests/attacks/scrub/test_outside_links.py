"""A file of a layer with another name outside of the layers: a write through it changes the image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.engines.containerd_store import SNAPSHOTS
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.layer_check import FILES_UNLISTED, CheckMode
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive, base
from tests.attacks.scrub.stores import Store
from tests.programs import program
from tests.real.tools import run

pytestmark = pytest.mark.real


def differences_in(report: ScrubReport) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for each in report.differences}


@pytest.mark.parametrize("path", ["bin/tool", "bin/su", "etc/empty", "lib", "dev/pipe"])
@pytest.mark.parametrize("quick", [False, True])
def test_a_name_outside_of_the_store_is_found(store: Store, tmp_path: Path, path: str, quick: bool) -> None:
    """A file of a layer that can be changed through a name outside of the store is found, unless --quick lists no files."""
    os.link(store.at(path), tmp_path / "outside", follow_symlinks=False)

    report = store.image_report(ScrubRequest(check_mode=CheckMode(quick=quick)))

    if quick and "containerd" in store.name:
        assert (report.status, report.unchecked) == (ReportStatus.HOLDS, (FILES_UNLISTED,))
    else:
        assert (report.status, differences_in(report)) == (ReportStatus.DIFFERS, {(DifferenceKind.HARDLINK, path)})


def test_a_name_elsewhere_in_the_store_is_found(store: Store) -> None:
    """A name in the store, but in no layer, such as in a volume, is found."""
    (store.root / "volumes").mkdir(exist_ok=True)
    os.link(store.at("bin/tool"), store.root / "volumes/tool")

    assert differences_in(store.image_report()) == {(DifferenceKind.HARDLINK, "bin/tool")}


def test_a_name_in_another_layer_is_clean(store: Store) -> None:
    """BuildKit links files of one layer into another; such a name is no finding for the first one."""
    other = store.at("", 1).parents[1] / "999" / store.at("", 1).name
    other.mkdir(parents=True)
    os.link(store.at("bin/tool"), other / "tool")
    os.link(store.at("bin/su"), other / "su")

    report = store.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context whose layers BuildKit links into one snapshot."""
    folder = tmp_path / "context"
    (folder / "more").mkdir(parents=True)
    (folder / "a").write_text("a")
    (folder / "more/b").write_text("b")
    (folder / "more/c").hardlink_to(folder / "more/b")
    (folder / "Dockerfile").write_text(
        "FROM shop/box:1 AS one\nCOPY a /one/a\nRUN ln /one/a /one/c\n"
        "FROM shop/box:1\nCOPY --link a /a\nCOPY --link more /more\nCOPY --link --from=one /one /two\n"
        "RUN echo x > /x; ln /a /aa; rm /more/b\n"
    )
    return folder


@pytest.fixture(params=[False, True], ids=["docker", "docker-containerd"])
def daemon(request: pytest.FixtureRequest, empty_home: None, tmp_path: Path) -> Iterator[servers.Server]:
    driver = "overlayfs" if request.param else "overlay2"
    with servers.dockerd(tmp_path / "e", containerd_store=request.param, driver=driver) as server:
        yield server


def loaded(daemon: servers.Server, folder: Path) -> tuple[str, ...]:
    """Load a runnable image, and return the docker command for the daemon."""
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    for name in ("sh", "ln", "rm"):
        box.add(f"bin/{name}", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "image.tar", [base(), box.done()], "shop/box:1")
    docker = ("docker", "-H", f"unix://{daemon.address}")
    run(*docker, "load", "-i", folder / "image.tar").checked()
    return docker


def linked_between(layers: Path) -> int:
    """Return how many files have names in several layers."""
    found: dict[int, set[str]] = {}
    for folder in layers.iterdir():
        for path in (folder / "fs").rglob("*"):
            if path.is_file():
                found.setdefault(path.stat().st_ino, set()).add(folder.name)
    return sum(len(names) > 1 for names in found.values())


@pytest.mark.slow
def test_links_between_layers_of_buildkit_are_clean(daemon: servers.Server, context: Path, tmp_path: Path) -> None:
    """Files that BuildKit links from one layer into another (`COPY --link`) have no findings, also after a prune."""
    docker, root = loaded(daemon, tmp_path), tmp_path / "e/data"
    for tag in ("1", "2"):
        (context / "a").write_text(tag)
        build = ("build", "--network", "none", "-t", f"built:{tag}", context)
        run(*docker, *build, env={"DOCKER_BUILDKIT": "1"}).checked()
    built = scrub(store_at(root), ScrubRequest(), lambda *_: None)
    snapshots = root / "containerd/daemon" / SNAPSHOTS.decode() / "snapshots"
    links = linked_between(snapshots)
    run(*docker, "builder", "prune", "--force", "--all").checked()
    pruned = scrub(store_at(root), ScrubRequest(), lambda *_: None)

    assert bool(links) == any(snapshots.iterdir())
    checked = [each for each in (*built, *pruned) if each.status is not ReportStatus.UNCHECKED]
    assert {(each.status, each.differences, each.unknown) for each in checked} == {(ReportStatus.HOLDS, (), ())}


@pytest.mark.slow
def test_a_name_in_a_containers_own_layer_is_found(daemon: servers.Server, tmp_path: Path) -> None:
    """A container could change a file of its image that has a name in the container's own layer; that is found."""
    docker, root = loaded(daemon, tmp_path), tmp_path / "e/data"
    run(*docker, "create", "--network", "none", "shop/box:1", "sh").checked()
    plans = [each.plan(each.root) for each in store_at(root)]
    (upper,) = [plan.root / os.fsdecode(each.upper or b"") for plan in plans for each in plan.containers]
    tool = next(each for each in upper.parents[1].glob("*/*/bin/tool") if each.parts[-4] != "l")
    os.link(tool, upper / "mine")

    found = scrub(store_at(root), ScrubRequest(), lambda *_: None)

    assert [differences_in(each) for each in found if each.what == "image"] == [{(DifferenceKind.HARDLINK, "bin/tool")}]
