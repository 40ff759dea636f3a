"""Fixtures for tests of clients: neither what is configured on this machine nor a pause between two attempts has any effect.

This file imports nothing of boltseal, so that a test which uses it runs only if the test's own modules have changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina


@pytest.fixture
def one_attempt() -> Iterator[None]:
    """A request of a client that fails is not repeated."""
    with stamina.set_testing(True, attempts=1):
        yield


@pytest.fixture
def two_attempts() -> Iterator[None]:
    """A request of a client that fails is repeated once, without a pause."""
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


@pytest.fixture
def three_attempts() -> Iterator[None]:
    """A request of a client that fails is repeated twice, without a pause."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def no_personal_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login and no setting of the person at this machine is used."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "empty-home"))
    for variable in ("DOCKER_CONFIG", "DOCKER_HOST", "CONTAINER_HOST", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """From here on, the programs that tests start neither read nor write what the person at this machine has configured."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
            patch.setenv(variable, str(home))
        for variable in ("DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "REGISTRY_AUTH_FILE", "CONTAINER_HOST"):
            patch.delenv(variable, raising=False)
        yield
