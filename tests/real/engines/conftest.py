"""Fixtures that several tests of engines share; a module with other needs has its own `shop`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.compose_project import ComposeProject, ProjectOn
from tests.real.registry import Registry
from tests.real.tools import Docker
from tests.servers import Server


@pytest.fixture
def project_on(registry: Registry, repository: str, tmp_path: Path) -> Iterator[ProjectOn]:
    """Makes this test's project in an empty folder, on an engine; the containers that it started are removed at the end."""
    made: list[ComposeProject] = []

    def make(engine: Docker, server: Server = registry.server) -> ComposeProject:
        project = ComposeProject(tmp_path / "project", engine, server, tmp_path / "state", repository)
        project.root.mkdir()
        made.append(project)
        return project

    yield make
    for each in made:
        each.down()


@pytest.fixture(params=["docker", "docker_containerd"])
def shop(request: pytest.FixtureRequest, project_on: ProjectOn) -> ComposeProject:
    """A project on each store of Docker."""
    return project_on(request.getfixturevalue(request.param))
