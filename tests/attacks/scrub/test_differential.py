"""Differential test: random layers, random changes of them on disk, and a container started afterwards as the truth.

Whatever the container sees differently from the layers must be found. What it sees alike must not be found, except:

1. what another layer of the image hides. A container of an image that ends with the changed layer sees it;
2. marks and whiteouts where no lower layer has what they hide, and the layer's own folder, which some engines show as `/`
   and others do not: the layer is not as its tar says, but this makes no difference on this engine;
3. attributes `trusted.*` in the store of a user without root: only root, who may mount that store as well, sees them;
4. attributes, and nanoseconds of times, that the driver vfs does not copy from an image to its container.

An image that was not changed must hold, unless its containers lack files: the driver vfs removes new files in a folder without
an entry if an opaque mark follows them.

The layers' content is derived by a second implementation (`container_view`). Random numbers are seeded: the same cases on
every run; TEST_SCALE=full runs more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests.attacks.scrub.container_view import Node, View, differences, expected_view, seen_by, seen_view
from tests.attacks.scrub.image import Layer, archive_of
from tests.attacks.scrub.random_changes import Applied, RandomChange, random_changes
from tests.attacks.scrub.random_layers import RandomLayer, marked, marker_of, random_layers, tar_of
from tests.attacks.scrub.running_engines import ENGINES, Engine
from tests.programs import program
from tests.soak.scale import IS_FULL

pytestmark = [pytest.mark.real, pytest.mark.slow]

SEEDS = range(50) if IS_FULL else range(1)
CASES = 20
REFUSED = {"podman-vfs": {13, 18, 26, 39, 41}, "docker-vfs": {12, 13, 18, 21, 26, 39, 41}}
"""Seeds with layers that an engine with the driver vfs can't unpack."""
RUNS = [(name, number) for name in ENGINES for number in SEEDS if number not in REFUSED.get(name, ())]
ADDED = frozenset({"bin", "dev", "etc", "proc", "run", "sys", ".dockerenv"})
"""Names in a container's root that are the test's or the engine's."""


@dataclass(frozen=True, slots=True)
class Case:
    """An image and a change of one of its layers."""

    layers: list[RandomLayer]
    change: RandomChange


def cases(number: int) -> list[Case]:
    """Return the random cases of a seed."""
    found: list[Case] = []

    @seed(number)
    @settings(max_examples=CASES, phases=[Phase.generate], database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.builds(Case, random_layers(), random_changes()))
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found


@pytest.fixture
def engine(request: pytest.FixtureRequest, empty_home: None, tmp_path: Path) -> Iterator[Engine]:
    """Each engine, running, with a store of its own for each seed."""
    with ENGINES[request.param](tmp_path / "store") as running:
        yield running


@dataclass(slots=True)
class Batch:
    """Images of random layers that an engine has loaded, changed on disk, and as containers started afterwards see them."""

    engine: Engine
    number: int
    cases: list[Case]

    def name(self, case: int, layers: int | None = None) -> str:
        """Return the name of a case's image, or of the image that ends with a lower layer."""
        return f"docker.io/random/{self.number}-{case}:{'all' if layers is None else layers}"

    def load(self, folder: Path) -> None:
        """Load the images of all cases, and for each lower layer the image that ends with it."""
        runtime = _runtime()
        images = {self.name(-1): [runtime]}
        for number, case in enumerate(self.cases):
            tars = [runtime, *(tar_of(layer) for layer in self.layers(number))]
            images[self.name(number)] = tars
            images |= {self.name(number, count): tars[: count + 1] for count in range(1, len(case.layers))}
        archive_of(folder / "images.tar", images, ["/bin/sleep", "1000"])
        self.engine.load(folder / "images.tar")

    def layers(self, case: int) -> list[RandomLayer]:
        """Return the layers of a case's image."""
        return marked(self.cases[case].layers, f"{self.number}-{case}")

    def change(self) -> list[Applied]:
        """Change each image on disk."""
        return [
            case.change.apply(
                [self.engine.folder(marker_of(f"{self.number}-{number}", at)) for at in range(len(case.layers))]
            )
            for number, case in enumerate(self.cases)
        ]

    def reports(self) -> dict[str, ScrubReport]:
        """Return the report of each image."""
        found = scrub(store_at(self.engine.root), ScrubRequest(), lambda *_: None)
        return {f"docker.io/{name.removeprefix('docker.io/')}": each for each in found for name in each.names}

    def seen(self, images: list[str]) -> list[View]:
        """Return what a new container of each image sees; nothing if it does not start."""
        with ThreadPoolExecutor(3) as pool:
            started = list(pool.map(self.engine.start, images))
        try:
            return [self._kept(self._seen(pid)) if pid else {} for _, pid in started]
        finally:
            self.engine.stop([box for box, _ in started if box])

    def lacks_files(self, name: str) -> bool:
        """Return whether a container of an unchanged image lacks files of its layers."""
        case, _, layers = name.partition("-")[2].partition(":")
        root, view = self.seen([self.name(-1), name])
        expected = self.expected(int(case), root[""], None if layers == "all" else int(layers))
        return bool(expected.keys() - view.keys())

    def _seen(self, pid: int) -> View:
        return seen_by(pid, ADDED) if self.engine.mapped else seen_view(Path(f"/proc/{pid}/root"), ADDED)

    def expected(self, case: int, root: Node, layers: int | None = None) -> View:
        """Return what a container must see; its root folder is like that of an unmodified image."""
        view = expected_view(self.layers(case)[:layers], self.engine.making, adds=self.engine.adds)
        return self._kept({**view, "": replace(root, mtime_ns=None)})

    def _kept(self, view: View) -> View:
        """Return a view with the attributes that reach a container."""
        copied = self.engine.copied
        if copied is None:
            return view
        kept = {
            path: tuple(each for each in node.xattrs or () if each[0].startswith(copied)) for path, node in view.items()
        }
        return {path: replace(node, xattrs=kept[path]) for path, node in view.items()}


def _runtime() -> bytes:
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    return box.add("bin/sleep", kind=b"1", link="bin/box", mode=0o755).done()


@pytest.mark.parametrize(("engine", "number"), RUNS, indirect=["engine"])
def test_scrub_finds_what_a_container_sees_and_nothing_else(
    engine: Engine, tmp_path: Path, number: int, record_property: Callable[[str, object], None]
) -> None:
    """An image is found to differ exactly if a container started after the change sees other content than the layers'."""
    batch = Batch(engine, number, cases(number))
    batch.load(tmp_path)
    before = [name for name, each in batch.reports().items() if each.status is not ReportStatus.HOLDS]
    alike = [name for name in before if not batch.lacks_files(name)]
    applied = batch.change()
    reports = batch.reports()
    root, *views = batch.seen([batch.name(-1), *map(batch.name, range(len(batch.cases)))])
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for case, (did, seen) in enumerate(zip(applied, views, strict=True)):
        other = differences(batch.expected(case, root[""]), seen)
        report = reports[batch.name(case)]
        verdict = _judged(batch, case, did, report, other, root[""])
        counts[verdict] += 1
        if verdict in WRONG:
            wrong.append(
                f"{verdict}: {did}: seen {other}, {report.status} {report.differences} {report.unknown}, {batch.cases[case]}"
            )
    record_property("verdicts", dict(counts))

    assert alike == [], before
    assert wrong == []
    assert counts["seen and found"] > 0 < counts["alike and clean"]


UNCOPIED = {DifferenceKind.XATTR, DifferenceKind.MTIME}
MISSED, FALSE_ALARM = "seen and not found", "found and seen by no container"
WRONG = (MISSED, FALSE_ALARM)


def _judged(batch: Batch, case: int, did: Applied, report: ScrubReport, other: list[str], root: Node) -> str:
    """Return the verdict on one case."""
    if other:
        return "seen and found" if report.status is ReportStatus.DIFFERS else MISSED
    if report.status is ReportStatus.HOLDS:
        return "alike and clean"
    if did.idle or (batch.engine.copied is not None and {each.kind for each in report.differences} <= UNCOPIED):
        return "found and without effect"
    ending = did.layer + 1
    if ending == len(batch.cases[case].layers):
        return FALSE_ALARM
    (view,) = batch.seen([batch.name(case, ending)])
    return "found and seen in a lower image" if differences(batch.expected(case, root, ending), view) else FALSE_ALARM
