"""Records on the disk that a running service does not use: it read them at its start, and keeps them in memory."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive
from tests.attacks.scrub.stores import Store
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]

GOOD, OTHER = "localhost/shop/good:1", "localhost/shop/other:1"
LAYERDB = "image/overlay2/layerdb/sha256"


def loaded(folder: Path, docker: tuple[str, ...], name: str) -> None:
    run(*docker, "load", "-i", image_of(folder, name)).checked()


def image_of(folder: Path, name: str) -> Path:
    """Write the archive of an image of two layers whose command prints its name."""
    lower = Layer().folder("bin").add("bin/busybox", Path(program("busybox")).read_bytes(), mode=0o755)
    layers = [lower.done(), Layer().add("message", name.encode()).done()]
    archive(folder / "image.tar", layers, name, ["/bin/busybox", "cat", "/message"])
    return folder / "image.tar"


def images(root: Path) -> list[ScrubReport]:
    return [each for each in scrub(store_at(root), ScrubRequest(), lambda *_: None) if each.what == "image"]


def records_moved_to_copies(root: Path) -> dict[str, str]:
    """Copy the folder of each layer, and let the records refer to the copies; return the new name of each folder."""
    layers = root / "overlay2"
    records = [each / "cache-id" for each in (root / LAYERDB).iterdir()]
    renamed = {each.read_text(): secrets.token_hex(32) for each in records}
    links = {(layers / old / "link").read_text(): secrets.token_hex(13).upper().translate(str.maketrans("0189", "WXYZ"))
             for old in renamed}  # fmt: skip
    for old, new in renamed.items():
        subprocess.run(["cp", "-a", layers / old, layers / new], check=True)
        link = links[(layers / old / "link").read_text()]
        (layers / new / "link").write_text(link)
        (layers / "l" / link).symlink_to(f"../{new}/diff")
        lower = layers / new / "lower"
        if lower.exists():
            lower.write_text(":".join(f"l/{links[each.removeprefix('l/')]}" for each in lower.read_text().split(":")))
    for record in records:
        record.write_text(renamed[record.read_text()])
    return renamed


def test_a_layers_record_that_the_running_daemon_does_not_use_differs(tmp_path: Path) -> None:
    """With layerdb's records moved to clean copies, the running daemon still mounts the changed folders, which differs."""
    root = tmp_path / "engine/data"
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        docker = ("docker", "-H", f"unix://{server.address}")
        loaded(tmp_path, docker, GOOD)
        before = images(root)
        for old in records_moved_to_copies(root):
            for message in (root / "overlay2" / old / "diff").glob("message"):
                message.write_text("changed")
        shown = run(*docker, "run", "--rm", "--network", "none", GOOD).text.strip()
        (found,) = images(root)

    assert [each.status for each in before] == [ReportStatus.HOLDS]
    assert shown == "changed"
    assert found.status is ReportStatus.DIFFERS
    assert {each.kind for each in found.differences} == {DifferenceKind.STACK}
    assert all("(dockerd) mounts" in each.got for each in found.differences)


def test_names_that_the_running_daemon_resolves_otherwise_differ(tmp_path: Path) -> None:
    """With an earlier list of names put back on the disk, the running daemon still starts another image, which differs."""
    root = tmp_path / "engine/data"
    names = root / "image/overlay2/repositories.json"
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        docker = ("docker", "-H", f"unix://{server.address}")
        loaded(tmp_path, docker, GOOD)
        loaded(tmp_path, docker, OTHER)
        earlier = names.read_bytes()
        run(*docker, "tag", OTHER, GOOD).checked()
        before = images(root)
        names.write_bytes(earlier)
        shown = run(*docker, "run", "--rm", "--network", "none", GOOD).text.strip()
        found = images(root)
    stopped = images(root)

    assert {each.status for each in before} == {ReportStatus.HOLDS}
    assert shown == OTHER
    assert [each.status for each in found] == [ReportStatus.DIFFERS, ReportStatus.DIFFERS]
    assert {each.kind for report in found for each in report.differences} == {DifferenceKind.TAG}
    assert {each.status for each in stopped} == {ReportStatus.HOLDS}


def test_a_daemon_that_can_not_be_asked_is_stated(tmp_path: Path) -> None:
    """A running daemon without a Unix socket is stated as not checked, which counts if complete coverage is asked for."""
    root = tmp_path / "engine/data"
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        loaded(tmp_path, ("docker", "-H", f"unix://{server.address}"), GOOD)
        asked = images(root)
        Path(server.address).rename(tmp_path / "hidden")
        unasked = images(root)
    stopped = images(root)

    assert [(each.status, each.unchecked) for each in (*asked, *stopped)] == [(ReportStatus.HOLDS, ())] * 2
    assert [each.status for each in unasked] == [ReportStatus.HOLDS]
    assert "can't be asked" in unasked[0].unchecked[0]
    assert outcome(unasked) is ReportStatus.HOLDS
    assert outcome(unasked, complete=True) is ReportStatus.UNKNOWN


def test_the_daemon_of_the_driver_vfs_does_not_report_folders(tmp_path: Path) -> None:
    """Which folders a running daemon uses with the driver vfs is stated as not checked, since it does not report them."""
    root = tmp_path / "engine/data"
    with servers.dockerd(tmp_path / "engine", driver="vfs") as server:
        loaded(tmp_path, ("docker", "-H", f"unix://{server.address}"), GOOD)
        (found,) = images(root)

    assert found.status is ReportStatus.HOLDS
    assert "the storage driver vfs" in found.unchecked[0]


def test_names_that_podmans_running_service_resolves_otherwise_differ(tmp_path: Path) -> None:
    """With names exchanged in Podman's list, its running service still resolves the former images, which differs."""
    root = tmp_path / "engine/root"
    with servers.podman(tmp_path / "engine", driver="overlay") as server:
        docker = ("docker", "-H", f"unix://{server.address}")
        loaded(tmp_path, docker, GOOD)
        loaded(tmp_path, docker, OTHER)
        before = images(root)
        listed = root / "overlay-images/images.json"
        one, other = json.loads(listed.read_bytes())
        one["names"], other["names"] = other["names"], one["names"]
        listed.write_text(json.dumps([one, other]))
        shown = run(*docker, "run", "--rm", "--network", "none", GOOD).text.strip()
        found = images(root)
    stopped = images(root)

    assert [(each.status, each.unchecked) for each in before] == [(ReportStatus.HOLDS, ())] * 2
    assert shown == GOOD
    assert [each.status for each in found] == [ReportStatus.DIFFERS, ReportStatus.DIFFERS]
    assert {each.kind for report in found for each in report.differences} == {DifferenceKind.TAG}
    assert {each.status for each in stopped} == {ReportStatus.HOLDS}


def test_a_podman_service_of_another_store_says_nothing(tmp_path: Path, originals: Callable[[str], Store]) -> None:
    """A running service of another store of the same user is neither compared with a store nor missed."""
    store = originals("podman")
    with servers.podman(tmp_path / "engine", driver="overlay"):
        report = store.image_report()

    assert (report.status, report.unchecked) == (ReportStatus.HOLDS, ())
