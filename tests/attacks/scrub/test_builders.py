"""A corpus of builders: layers as many programs write them, and odd ones, are clean in every engine's store.

A false alarm is a defect: of an image that nothing has changed, `scrub` reports no difference, and it checks all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.builder_layers import PACKED, make_tree, pack
from tests.attacks.scrub.image import archive
from tests.attacks.scrub.odd_layers import ODD, REFUSED
from tests.attacks.scrub.stores import MAKERS, podman_on
from tests.go_programs import build_go
from tests.real.tools import CommandResult, run

pytestmark = [pytest.mark.real, pytest.mark.slow]


@dataclass(frozen=True)
class Engine:
    """A running engine. `load`: the command that loads an archive; `prefix`: what it puts before an image's name."""

    name: str
    root: Path
    load: tuple[str, ...]
    prefix: str = ""

    def loaded(self, folder: Path, name: str, layers: list[bytes]) -> CommandResult:
        """Load an image of these layers."""
        archive(folder / "image.tar", layers, f"corpus/{name}:1")
        return run(*self.load, folder / "image.tar")

    def report(self, name: str) -> ScrubReport:
        """Return the report of an image."""
        wanted = ScrubRequest(images=(f"{self.prefix}corpus/{name}:1",))
        (report,) = [each for each in scrub(store_at(self.root), wanted, lambda *_: None) if each.what == "image"]
        return report


@pytest.fixture(scope="module", params=list(MAKERS))
def engine(
    request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Each engine with a store of its own."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    if name == "podman":
        yield Engine(name, folder / "root", (*podman_on(folder / "root", folder), "load", "-i"), "localhost/")
        servers.unmounted(folder)
    elif name == "containerd":
        with servers.containerd(folder) as server:
            command = ("ctr", "--address", server.address, "images", "import", "--snapshotter", "overlayfs")
            yield Engine(name, folder / "root", command, "docker.io/")
    else:
        containerd = name == "docker-containerd"
        driver = "overlayfs" if containerd else "overlay2"
        with servers.dockerd(folder, containerd_store=containerd, driver=driver) as server:
            yield Engine(name, folder / "data", ("docker", "-H", f"unix://{server.address}", "load", "-i"))


@pytest.fixture(scope="module")
def packers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], bytes]]:
    """How each program packs the same folder."""
    folder = tmp_path_factory.mktemp("packed")
    go = build_go(Path(__file__).parent / "builders/main.go", folder / "builders")
    return pack(make_tree(folder / "tree"), go, folder / "git")


@pytest.mark.parametrize("name", PACKED)
def test_a_layer_of_every_builder_is_clean(
    engine: Engine, packers: dict[str, Callable[[], bytes]], tmp_path: Path, name: str
) -> None:
    """A folder that holds all that tars differ in has no findings, whichever program packed it."""
    engine.loaded(tmp_path, name, [packers[name]()]).checked()

    report = engine.report(name)

    assert (report.differences, report.unknown, report.status) == ((), (), ReportStatus.HOLDS)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_layer_is_clean_or_refused(engine: Engine, tmp_path: Path, name: str) -> None:
    """A layer with an odd entry has no findings in the store of each engine that loads it."""
    loaded = engine.loaded(tmp_path, name, ODD[name])
    reports = [engine.report(name)] if loaded.ok else []

    assert loaded.ok == (name not in REFUSED[engine.name]), loaded.text
    assert [(each.differences, each.unknown, each.status) for each in reports] == [
        ((), (), ReportStatus.HOLDS)
    ] * loaded.ok
