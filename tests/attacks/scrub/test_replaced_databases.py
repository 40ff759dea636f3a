"""A database that was replaced while its engine runs: the engine goes on with the former file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.engines.containerd_store import METADATA, SNAPSHOTS
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]

GOOD, OTHER, KEPT = "localhost/shop/good:1", "localhost/shop/other:1", "localhost/shop/kept:1"
DATABASES = [METADATA.decode(), f"{SNAPSHOTS.decode()}/metadata.db"]


def imported(folder: Path, ctr: tuple[str, ...], name: str) -> None:
    """Import an image whose command prints its name."""
    layer = Layer().folder("bin").add("message", name.encode())
    layer.add("bin/busybox", Path(program("busybox")).read_bytes(), mode=0o755)
    archive(folder / "image.tar", [layer.done()], name, ["/bin/busybox", "cat", "/message"])
    to = folder / "oci.tar"
    to.unlink(missing_ok=True)
    run(
        "skopeo", "--insecure-policy", "copy", f"docker-archive:{folder}/image.tar", f"oci-archive:{to}:{name}"
    ).checked()
    run(*ctr, "images", "import", "--snapshotter", "overlayfs", to).checked()


def images(root: Path) -> list[ScrubReport]:
    return [each for each in scrub(store_at(root), ScrubRequest(), lambda *_: None) if each.what == "image"]


def put_over(database: Path, copy: Path) -> None:
    copy.rename(database)


def moved_aside(database: Path, copy: Path) -> None:
    database.rename(database.with_name("old.db"))
    copy.rename(database)


@pytest.mark.parametrize("replace", [put_over, moved_aside])
def test_an_image_does_not_hold_by_a_database_that_containerd_does_not_use(
    tmp_path: Path, replace: Callable[[Path, Path], None]
) -> None:
    """While containerd runs another image by its own open database, the names in the file on the disk prove nothing."""
    root = tmp_path / "engine/root"
    with servers.containerd(tmp_path / "engine") as server:
        ctr = ("ctr", "--address", server.address)
        for name in (GOOD, OTHER):
            imported(tmp_path, ctr, name)
        run(*ctr, "images", "tag", GOOD, KEPT).checked()
        database = root / DATABASES[0]
        copy = database.with_name("copy")
        shutil.copy2(database, copy)
        run(*ctr, "images", "tag", "--force", OTHER, GOOD).checked()
        before = images(root)
        replace(database, copy)

        begin = ("run", "--rm", "--cpu-shares", "0", "--snapshotter", "overlayfs")
        shown = run(*ctr, *begin, GOOD, "box").text.strip()
        found = images(root)
        servers.unmounted(tmp_path)

    assert {each.status for each in before} == {ReportStatus.HOLDS}
    assert shown == OTHER
    assert {each.status for each in found} == {ReportStatus.UNKNOWN}
    assert all(DATABASES[0] in " ".join(each.unknown) for each in found)


def test_the_snapshotters_database_may_not_be_replaced_either(tmp_path: Path) -> None:
    """A replaced list of snapshots, by which containerd finds the folders of layers, leaves its images unchecked."""
    root = tmp_path / "engine/root"
    with servers.containerd(tmp_path / "engine") as server:
        imported(tmp_path, ("ctr", "--address", server.address), GOOD)
        database = root / DATABASES[1]
        shutil.copy2(database, database.with_name("copy"))
        put_over(database, database.with_name("copy"))
        running = images(root)
    stopped = images(root)

    assert [each.status for each in running] == [ReportStatus.UNKNOWN]
    assert DATABASES[1] in " ".join(running[0].unknown)
    assert [each.status for each in stopped] == [ReportStatus.HOLDS]
