"""Fixtures of the release scripts' tests: the commit, the locked wheels, wheel and sdist, and an image, each built
once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.distribution.builds import Dist, build_dist, committed, download_wheels
from tests.servers import Server


@pytest.fixture(scope="session")
def revision() -> str:
    """The commit that is built: HEAD with the uncommitted changes of tracked files."""
    return committed()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of requirements.lock for this Python, from the package index that pip is configured for."""
    return download_wheels(tmp_path_factory.mktemp("wheels"), ".".join(map(str, sys.version_info[:2])))


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory, revision: str) -> Dist:
    """Wheel and sdist with their documents."""
    return build_dist(tmp_path_factory.mktemp("dist") / "dist", revision)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A boltseal of this environment, to which builds are pushed."""
    with servers.boltseal(tmp_path_factory.mktemp("registry") / "data") as server:
        yield server


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has only system programs and a home folder without settings."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("LANG", "SSL_CERT_FILE")}
    return kept | {"HOME": str(home), "PATH": f"{home}/.local/bin:/usr/bin:/bin"}
