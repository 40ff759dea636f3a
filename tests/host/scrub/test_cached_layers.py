"""Layers in Docker's layerdb that belong to no image, and folders that belong to no layer, in a made store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests.host.scrub.made_stores import DockerStore

LAYERDB = "image/overlay2/layerdb/sha256"


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store of two layers whose image was removed, beside an image of a layer of its own."""
    made = DockerStore.at(tmp_path)
    removed = made.image("removed:1", {"f": b"f"}, {"g": b"g"})
    (made.root / "image/overlay2/imagedb/content/sha256" / removed.hex).unlink()
    (made.root / "image/overlay2/repositories.json").write_text('{"Repositories":{}}')
    made.image("app:1", {"h": b"h"})
    return made


def reports(store: DockerStore, *images: str) -> list[ScrubReport]:
    return scrub(store_at(store.root), ScrubRequest(images=images), lambda *_: None)


def test_layers_without_an_image_are_checked_together(store: DockerStore) -> None:
    """Layers without an image are one subject with the layers below them, and match by their chain ID."""
    image, cache = reports(store)

    assert (image.what, image.status) == ("image", ReportStatus.HOLDS)
    assert (cache.what, cache.status, cache.layers, cache.level) == ("build-cache", ReportStatus.HOLDS, 2, "L0")


def test_a_check_of_one_image_leaves_them_out(store: DockerStore) -> None:
    """A check of named images is only about these images."""
    assert [each.what for each in reports(store, "app:1")] == ["image"]


def test_a_changed_file_in_them_differs(store: DockerStore) -> None:
    """A changed file in a layer without an image is a difference, since the next build may use it."""
    (store.layer() / "f").chmod(0o4755)

    (_, cache) = reports(store)

    assert {(each.kind, each.path) for each in cache.differences} == {(DifferenceKind.MODE, "f")}


@pytest.mark.parametrize("name", ["diff", "parent"])
def test_a_changed_record_of_them_differs(store: DockerStore, name: str) -> None:
    """The records of a layer must give the chain ID under which the layer is stored."""
    (path,) = [each for each in (store.root / LAYERDB).glob(f"*/{name}") if (each.parent / "parent").exists()]
    path.write_text(
        (store.root / LAYERDB / path.parent.name / "parent").read_text() if name == "diff" else f"sha256:{'0' * 64}"
    )

    found = reports(store)

    (differing,) = [each for each in found if each.what == "build-cache" and each.status is ReportStatus.DIFFERS]
    assert differing.remedy is None  # there is no image to pull


def test_layers_that_are_pruned_during_the_check_are_left_out(store: DockerStore) -> None:
    """A build cache is removed at any time, so that a check during which that happens is complete without it."""

    def prune(*_: int) -> None:
        for chain in (store.root / LAYERDB).iterdir():
            at = store.root / "overlay2" / (chain / "cache-id").read_text()
            if not (at / "diff/h").exists():
                shutil.rmtree(chain)
                shutil.rmtree(at)

    found = scrub(store_at(store.root), ScrubRequest(), prune)

    assert [(each.what, each.status) for each in found] == [("image", ReportStatus.HOLDS)]


def test_folders_without_a_layer_are_counted(store: DockerStore) -> None:
    """Folders that no layer and no container refers to, such as those of build steps, change the outcome only on request."""
    for name in ("step1", "step2"):
        (store.root / "overlay2" / name / "diff").mkdir(parents=True)

    found = reports(store)
    (steps,) = [each for each in found if each.status is ReportStatus.UNCHECKED]

    assert steps.unchecked_count == 2
    assert outcome(found) is ReportStatus.HOLDS
    assert outcome(found, complete=True) is ReportStatus.UNKNOWN


def test_a_folder_that_is_removed_during_the_check_is_not_counted(store: DockerStore) -> None:
    """A folder of a container that is created or removed during the check is not counted as a layer of a build cache."""
    step = store.root / "overlay2/step1"
    (step / "diff").mkdir(parents=True)

    found = scrub(store_at(store.root), ScrubRequest(), lambda *_: shutil.rmtree(step, ignore_errors=True))

    assert ReportStatus.UNCHECKED not in {each.status for each in found}
