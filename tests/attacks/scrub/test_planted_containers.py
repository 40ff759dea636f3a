"""Containers that Docker did not create: the daemon loads each folder that has a config when it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import archive, base
from tests.real.tools import run
from tests.servers import Server

pytestmark = pytest.mark.real

PLANTED = "planted"


def docker(server: Server, *argv: str | Path) -> str:
    return run("docker", "-H", f"unix://{server.address}", *argv).checked().strip()


def containers(root: Path) -> dict[str, ScrubReport]:
    """Return the report of each container by its ID."""
    found = scrub(store_at(root), ScrubRequest(), lambda *_: None)
    return {each.id: each for each in found if each.what == "container"}


def test_a_container_with_an_id_that_docker_does_not_give_is_found(empty_home: None, tmp_path: Path) -> None:
    """A planted container is listed by the daemon whatever its ID is, so it is checked, and its ID is a difference."""
    root = tmp_path / "engine/data"
    archive(tmp_path / "image.tar", [base()], "shop/app:1", ["/bin/tool"])
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        docker(server, "load", "-i", tmp_path / "image.tar")
        real, copied = (docker(server, "create", "--network", "none", "shop/app:1") for _ in range(2))
    before = containers(root)
    folder = (root / "containers" / copied).rename(root / "containers" / PLANTED)
    (root / "image/overlay2/layerdb/mounts" / copied).rename(root / "image/overlay2/layerdb/mounts" / PLANTED)
    config = folder / "config.v2.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"ID": PLANTED}))
    (root / "containers/a-file").write_bytes(b"")
    (root / "containers/a-folder").mkdir()
    (root / "containers/\udcff").mkdir()
    (root / "containers/\udcff/config.v2.json").write_text(config.read_text())
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        listed = docker(server, "ps", "--all", "--quiet", "--no-trunc").split()
    found = containers(root)

    assert before.keys() == {real, copied}
    assert set(listed) == {real, PLANTED} == found.keys()
    assert found[real].status is ReportStatus.HOLDS
    assert [(each.kind, each.got) for each in found[PLANTED].differences] == [(DifferenceKind.EXTRA, PLANTED)]
