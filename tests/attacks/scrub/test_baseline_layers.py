"""Manipulations of layers whose blobs are gone, which a signed baseline finds, in containerd's store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from boltseal.host.scrub.baseline import Baseline, open_baseline
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.scrub import ScrubRequest
from boltseal.host.scrub.trust import Level
from boltseal.ledger.note import SigningKey
from tests.attacks.scrub.file_manipulations import OF_FILES, Manipulation, two_files_made_one
from tests.attacks.scrub.more_manipulations import MORE_OF_FILES
from tests.attacks.scrub.stores import Store
from tests.attacks.scrub.structure_manipulations import OF_STRUCTURE
from tests.cli import program

pytestmark = pytest.mark.real

FOUND: Final[dict[Manipulation, tuple[DifferenceKind, str]]] = {**OF_FILES, **MORE_OF_FILES, **OF_STRUCTURE}


@pytest.fixture(scope="module")
def recorded(originals: Callable[[str], Store], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Baseline]:
    """containerd's store after it discarded the blobs of unpacked layers, and a baseline that was recorded then."""
    folder = tmp_path_factory.mktemp("recorded")
    store = originals("containerd").copy(folder / "store")
    blobs = store.root / "io.containerd.content.v1.content/blobs/sha256"
    for raw in [each.read_bytes() for each in blobs.iterdir()]:
        if raw.startswith(b"{"):
            for layer in json.loads(raw).get("layers", ()):
                (blobs / layer["digest"].removeprefix("sha256:")).unlink(missing_ok=True)
    done = program.call(
        "scrub", "--root", store.root, "--write-baseline", folder / "baseline", "--signing-key", folder / "key"
    )

    assert done.code == 0, done

    key = SigningKey.parse((folder / "key").read_text().strip())
    return store, open_baseline(folder / "baseline", key.verifier)


def test_a_store_without_blobs_is_clean_against_its_baseline(recorded: tuple[Store, Baseline]) -> None:
    """Without blobs a layer can't be checked; with a baseline it is, and the level says so."""
    store, baseline = recorded
    without, checked = store.image_report(), store.image_report(ScrubRequest(baseline=baseline))

    assert (without.status, without.differences) == (ReportStatus.UNKNOWN, ())
    assert (checked.status, checked.level, checked.differences, checked.unknown) == (
        ReportStatus.HOLDS,
        Level.B,
        (),
        (),
    )
    assert "signed by" in checked.by


NAMED_BY_A_BASELINE: dict[Manipulation, tuple[DifferenceKind, str]] = {
    two_files_made_one: (DifferenceKind.HARDLINK, "etc/passwd")
}
"""Where a baseline names another file of the two: it has them in the order of their names."""


@pytest.mark.parametrize("manipulation", FOUND, ids=lambda each: each.__name__)
def test_a_change_of_a_layer_without_its_blob_is_found_by_a_baseline(
    recorded: tuple[Store, Baseline], tmp_path: Path, manipulation: Manipulation
) -> None:
    """A baseline finds each change in a layer whose blob is gone, and names it."""
    original, baseline = recorded
    store = original.copy(tmp_path / "store")
    manipulation(store)

    report = store.image_report(ScrubRequest(baseline=baseline))

    assert report.status is ReportStatus.DIFFERS
    assert NAMED_BY_A_BASELINE.get(manipulation, FOUND[manipulation]) in {
        (each.kind, each.path) for each in report.differences
    }


def test_a_damaged_inventory_checks_nothing(recorded: tuple[Store, Baseline], tmp_path: Path) -> None:
    """An inventory that was changed after it was signed is not used: its layer could not be checked."""
    store, baseline = recorded
    ((_, inventory), *_) = baseline.inventories.items()
    damaged = tmp_path / "baseline"
    damaged.write_bytes(inventory.file.read_bytes().replace(b'"t":"f","m":493', b'"t":"f","m":511'))
    forged = {diff_id: replace(each, file=damaged) for diff_id, each in baseline.inventories.items()}

    report = store.image_report(ScrubRequest(baseline=replace(baseline, inventories=forged)))

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "not the one that was signed" in report.unknown[0]


def test_recorded_layers_prove_no_image_that_was_not_recorded(recorded: tuple[Store, Baseline]) -> None:
    """An image made of recorded layers, but not recorded itself, could not be checked."""
    store, baseline = recorded
    report = store.image_report(ScrubRequest(baseline=replace(baseline, images=())))

    assert report.status is ReportStatus.UNKNOWN
