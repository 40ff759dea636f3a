"""Layers of BuildKit's cache: checked where they have a digest, else counted and stated."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from boltseal.commands.scrub import ScrubResult
from boltseal.engines.containerd_store import SNAPSHOTS
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import BUILD_CACHE, ORPHANED, ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive, base
from tests.attacks.scrub.stores import Store
from tests.cli import program as verb
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

BOX = "shop/box:1"
DOCKERFILE = f"""\
FROM {BOX} AS stage
COPY Dockerfile /copied
RUN echo built > /built
FROM {BOX}
COPY --from=stage /built /taken
"""


@pytest.fixture(scope="module", params=["docker", "docker-containerd"])
def builder(request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of a data root after a build: with its images in `built`, without any image in `removed`."""
    folder = tmp_path_factory.mktemp(request.param)
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    box.add("bin/sh", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "box.tar", [base(), box.done()], BOX, ["/bin/sh"])
    (folder / "context").mkdir()
    (folder / "context/Dockerfile").write_text(DOCKERFILE)
    modern = request.param != "docker"
    driver = "overlayfs" if modern else "overlay2"
    with servers.dockerd(folder / "engine", containerd_store=modern, driver=driver) as server:
        docker = ("docker", "-H", f"unix://{server.address}")
        run(*docker, "load", "-i", folder / "box.tar").checked()
        build = (*docker, "build", "--network", "none", "-t", "built:1", folder / "context")
        run(*build, env={"DOCKER_BUILDKIT": "1"}).checked()
        subprocess.run(["cp", "-a", folder / "engine/data", folder / "built"], check=True)
        run(*docker, "rmi", "--force", BOX, "built:1").checked()
        subprocess.run(["cp", "-a", folder / "engine/data", folder / "removed"], check=True)
    return folder


def cache_reports(root: Path) -> list[ScrubReport]:
    found = [each for store in store_at(root) for each in scrub([store], ScrubRequest(), lambda *_: None)]
    return [each for each in found if each.what == "build-cache"]


def test_layers_of_build_steps_are_counted(builder: Path) -> None:
    """Layers of build steps have no digest, so their number is stated beside the images that match."""
    root = builder / "built"

    done, as_json = verb.call("scrub", "--root", root), verb.call("scrub", "--root", root, "--json")
    (row,) = [each for each in as_json.json["results"] if each["what"] == "build-cache"]

    assert (done.code, as_json.code) == (0, 0)
    assert (row["status"], row["unchecked_count"] > 0) == ("unchecked", True)
    assert done.out.splitlines()[-1] == f"2 images hold; {row['unchecked_count']} build cache records not checked"


def test_complete_coverage_is_not_reached_with_a_build_cache(builder: Path) -> None:
    """With --complete an unchecked build cache is exit code 3, but not in a check of one image, which does not need it."""
    whole = verb.call("scrub", "--root", builder / "built", "--complete")
    of_one = verb.call("scrub", "--root", builder / "built", "--complete", BOX)

    assert (whole.code, of_one.code) == (3, 0)


def test_a_build_cache_alone_is_no_passed_check(builder: Path) -> None:
    """A store in which only build steps without a digest are left has nothing that was checked."""
    (steps,) = [each for each in cache_reports(builder / "removed") if each.status is ReportStatus.UNCHECKED]

    assert steps.unchecked_count > 0
    assert not ScrubResult((steps,), "here").has_checked


def test_a_changed_cached_layer_differs(builder: Path) -> None:
    """Layers that BuildKit keeps after their image was removed, and would build the next image on, are compared."""
    root = builder / "removed"
    clean = [each for each in cache_reports(root) if each.status is not ReportStatus.UNCHECKED]
    (tool,) = [
        each for at in ("overlay2/*/diff", "containerd/daemon/*/snapshots/*/fs") for each in root.glob(f"{at}/bin/tool")
    ]
    tool.chmod(0o4755)

    found = {(each.kind, each.path) for report in cache_reports(root) for each in report.differences}
    tool.chmod(0o755)

    assert {(each.status, each.differences) for each in clean} == {(ReportStatus.HOLDS, ())}
    assert found == {(DifferenceKind.MODE, "bin/tool")}


def test_a_store_without_a_build_has_nothing_unchecked(store: Store) -> None:
    """A store that only has an image has no layer that belongs to nothing."""
    assert [each.what for each in store.scrub()] == ["image"]


def test_a_folder_of_no_image_and_no_build_is_an_orphan(builder: Path) -> None:
    """A folder that an interrupted pull left in Docker's store is named apart from the build cache."""
    root = builder / "built"
    folder = f"overlay2/{'e' * 64}/diff"
    if not (root / "overlay2").is_dir():
        folder = f"{SNAPSHOTS.decode()}/snapshots/999/fs"
        root = root / "containerd/daemon"
    orphan = root / folder
    before = {each.what: each for each in found_unchecked(root)}
    orphan.mkdir(parents=True)
    after = {each.what: each for each in found_unchecked(root)}
    done = verb.call("scrub", "--root", root)
    complete = verb.call("scrub", "--root", root, "--complete")
    orphan.rmdir()
    orphan.parent.rmdir()

    assert before.keys() == {BUILD_CACHE}
    assert after.keys() == {BUILD_CACHE, ORPHANED}
    assert after[BUILD_CACHE].unchecked_count == before[BUILD_CACHE].unchecked_count
    assert after[ORPHANED].unchecked_count == 1
    assert after[ORPHANED].notes == (folder,)
    assert done.out.splitlines()[-1].endswith("; 1 orphaned layer folder not checked")
    assert (done.code, complete.code) == (0, 3)


def found_unchecked(root: Path) -> list[ScrubReport]:
    """Return what a check leaves out."""
    found = scrub(store_at(root), ScrubRequest(), lambda *_: None)
    return [each for each in found if each.status is ReportStatus.UNCHECKED]
