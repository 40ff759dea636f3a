"""Names in containerd's metadata that contain a digest, and resolve to another image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]

GOOD, OTHER = "localhost/shop/good:1", "localhost/shop/other:1"


def imported(folder: Path, ctr: tuple[str, ...], name: str) -> tuple[str, str]:
    """Import an image whose command prints its name; return the digests of its manifest and its config."""
    layer = Layer().folder("bin").add("message", name.encode())
    layer.add("bin/busybox", Path(program("busybox")).read_bytes(), mode=0o755)
    archive(folder / "image.tar", [layer.done()], name, ["/bin/busybox", "cat", "/message"])
    to = folder / "oci.tar"
    to.unlink(missing_ok=True)
    skopeo = ("skopeo", "--insecure-policy")
    run(*skopeo, "copy", f"docker-archive:{folder}/image.tar", f"oci-archive:{to}:{name}").checked()
    run(*ctr, "images", "import", "--snapshotter", "overlayfs", to).checked()
    rows = [row.split() for row in run(*ctr, "images", "ls").checked().splitlines()]
    manifest = next(row[2] for row in rows if row[0] == name)
    blob = folder / f"engine/root/io.containerd.content.v1.content/blobs/sha256/{manifest.removeprefix('sha256:')}"
    return manifest, json.loads(blob.read_bytes())["config"]["digest"]


def images(root: Path) -> dict[str, ScrubReport]:
    """Return the report of each name."""
    found = scrub(store_at(root), ScrubRequest(), lambda *_: None)
    return {name: each for each in found if each.what == "image" for name in each.names}


def test_a_name_with_the_digest_of_another_image_differs(tmp_path: Path) -> None:
    """A name by digest that resolves to another image starts that image, and is a difference; right ones hold."""
    root = tmp_path / "engine/root"
    with servers.containerd(tmp_path / "engine") as server:
        ctr = ("ctr", "--address", server.address)
        good, good_id = imported(tmp_path, ctr, GOOD)
        other, other_id = imported(tmp_path, ctr, OTHER)
        by_digest, by_id = f"localhost/shop/good@{good}", good_id
        right = (f"localhost/shop/other@{other}", other_id, other)
        for name in right:
            run(*ctr, "images", "tag", OTHER, name).checked()
        before = images(root)
        run(*ctr, "images", "tag", OTHER, by_digest).checked()
        begin = ("run", "--rm", "--cpu-shares", "0", "--snapshotter", "overlayfs")
        shown = run(*ctr, *begin, by_digest, "box").text.strip()
        by_a_digest = images(root)
        run(*ctr, "images", "remove", by_digest).checked()
        run(*ctr, "images", "tag", OTHER, by_id).checked()
        by_an_id = images(root)
        servers.unmounted(tmp_path)

    assert {each.status for each in before.values()} == {ReportStatus.HOLDS}
    assert shown == OTHER
    for found, name in ((by_a_digest, by_digest), (by_an_id, by_id)):
        report = found[name]
        assert report.status is ReportStatus.DIFFERS
        assert [each.kind for each in report.differences] == [DifferenceKind.TAG]
        assert name in report.differences[0].expected
        assert found[GOOD].status is ReportStatus.HOLDS
