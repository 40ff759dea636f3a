"""The stores of running engines, found without knowing their configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.engines.running_stores import running_stores
from boltseal.host.scrub.find_stores import usual_places, usual_stores
from tests import servers
from tests.programs import without_privileges

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]


def test_the_data_root_of_a_running_daemon_is_found(tmp_path: Path) -> None:
    """The data root of a running Docker daemon is found by its open databases; without the right to see them, by its options."""
    look = "from boltseal.engines.running_stores import running_stores; print(*running_stores(), sep='\\n')"
    root = tmp_path / "engine/data"
    with servers.dockerd(tmp_path / "engine", driver="overlay2"):
        found = running_stores()
        stores = usual_stores(disk=tmp_path, running=found)
        argv = [*without_privileges(), sys.executable, "-c", look]
        by_options = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    later = running_stores()

    assert root in found
    assert root in [each.root for each in stores]
    assert str(root) in by_options
    assert root not in later


def test_the_root_of_a_running_containerd_is_found(tmp_path: Path) -> None:
    """The root of a running containerd is found."""
    with servers.containerd(tmp_path / "engine"):
        found = running_stores()

    assert tmp_path / "engine/root" in found


def test_the_usual_places_are_named() -> None:
    """The places that were searched are named with their full paths."""
    assert "/var/lib/docker, /var/lib/containerd, /var/lib/containers/storage" in usual_places()
