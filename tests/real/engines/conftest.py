"""Fixtures that several tests of engines share; a module with other needs has its own `shop`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.compose_project import ComposeProject
from tests.real.registry import Registry
from tests.real.tools import Docker


@pytest.fixture(params=["docker", "docker_containerd"])
def shop(
    request: pytest.FixtureRequest, registry: Registry, repository: str, tmp_path: Path
) -> Iterator[ComposeProject]:
    """A project on each store of Docker, whose containers are removed at the end."""
    docker: Docker = request.getfixturevalue(request.param)
    made = ComposeProject(tmp_path / "project", docker, registry.server, tmp_path / "state", repository)
    yield made
    made.down()
