"""containerd's images that are not unpacked, not yet or not completely."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.plans import chain_ids
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.oci.digest import Digest
from tests import servers
from tests.attacks.scrub.image import Layer, archive, base, middle
from tests.polling import wait_until
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

TOO_LONG = "n" * 300
"""A name that no file system takes, so that the layer can't be unpacked."""


def report_of(root: Path) -> ScrubReport:
    (report,) = scrub(store_at(root), ScrubRequest(images=("localhost/shop/app:1",)), lambda *_: None)
    return report


@pytest.fixture(scope="module")
def stores(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of a containerd's store with an image of three layers, of which only the lowest could be unpacked.

    `failed`: containerd has given up. `begun`: it unpacks the second layer. `gap`: the third one is there, the second is not.
    """
    folder = tmp_path_factory.mktemp("c")
    layers = [base(), Layer().add(TOO_LONG).done(), middle()]
    for name, of_it in (("base", layers[:1]), ("app", layers)):
        archive(folder / f"{name}.tar", of_it)
        layout = f"oci-archive:{folder}/{name}.oci.tar:localhost/shop/{name}:1"
        run("skopeo", "--insecure-policy", "copy", f"docker-archive:{folder}/{name}.tar", layout).checked()
    root = folder / "engine/root"
    lowest, second, third = (str(each) for each in chain_ids([Digest.of(each) for each in layers]))

    def copied(to: str) -> None:
        subprocess.run(["cp", "-a", root, folder / to], check=True)

    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address)
        imports = (*ctr, "images", "import", "--snapshotter", "overlayfs")
        run(*imports, folder / "base.oci.tar").checked()  # keeps the lowest layer, which nothing else would
        failed = run(*imports, folder / "app.oci.tar")
        wait_until(lambda: report_of(root).status is not ReportStatus.UNKNOWN, "containerd has removed what it began")
        copied("failed")
        run(*ctr, "snapshots", "prepare", f"extract-123456789-abcd {second}", lowest).checked()
        copied("begun")
        run(*ctr, "snapshots", "prepare", "above", lowest).checked()
        run(*ctr, "snapshots", "commit", third, "above").checked()
        copied("gap")

    assert not failed.ok
    return folder


def test_an_image_that_failed_to_unpack_matches(stores: Path) -> None:
    """The layers that are not unpacked are stated, and are no difference: their blobs and all others match."""
    report = report_of(stores / "failed")

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())
    assert report.notes == ("2 of 3 layers not unpacked",)


def test_an_image_that_is_being_unpacked_could_not_be_checked(stores: Path) -> None:
    """While containerd unpacks a layer it has a snapshot for that, and the image could not be checked."""
    report = report_of(stores / "begun")

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "being unpacked" in report.unknown[0]


@pytest.mark.parametrize("state", ["failed", "begun"])
def test_a_changed_file_of_a_partly_unpacked_image_is_found(stores: Path, state: str) -> None:
    """The layers that are unpacked are compared, whether the others are or not."""
    (tool,) = (stores / state).glob("*/snapshots/*/fs/bin/tool")
    tool.chmod(0o4755)

    report = report_of(stores / state)
    tool.chmod(0o755)

    assert {(each.kind, each.path) for each in report.differences} == {(DifferenceKind.MODE, "bin/tool")}


def test_a_missing_snapshot_below_others_differs(stores: Path) -> None:
    """containerd unpacks from the lowest layer up, so a layer without a snapshot below one with a snapshot was removed."""
    report = report_of(stores / "gap")

    assert DifferenceKind.STACK in {each.kind for each in report.differences}
