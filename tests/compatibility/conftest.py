"""Copies of files that earlier revisions wrote, for each revision, and the state of a client of that time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.compatibility.fixtures import CONFIG, ENGINE, MIRROR, PORT, REVISIONS, addresses, copied, login


@pytest.fixture(params=REVISIONS, scope="module")
def revision(request: pytest.FixtureRequest) -> str:
    """Each revision that has fixtures."""
    found: str = request.param
    return found


@pytest.fixture(scope="module", autouse=True)
def _addresses() -> Iterator[None]:
    """Reserve the fixtures' addresses on this machine while the tests of a file run."""
    with addresses():
        yield


@pytest.fixture
def data(revision: str, tmp_path: Path) -> Path:
    """A copy of the data folder with its keys beside it."""
    return copied(revision, "server", tmp_path) / "data"


@pytest.fixture(scope="module")
def registry(revision: str, tmp_path_factory: pytest.TempPathFactory, _addresses: None) -> Iterator[servers.Server]:
    """Another copy, served at the address that locks and states name; tests only read from it."""
    data = copied(revision, "server", tmp_path_factory.mktemp("served")) / "data"
    with servers.boltseal(data, config=CONFIG + MIRROR, port=PORT) as server:
        yield server


@pytest.fixture
def state(revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the client's state, in use, without a login or setting of this machine."""
    folder = copied(revision, "state", tmp_path)
    monkeypatch.setenv("BOLTSEAL_STATE", str(folder))
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(login(tmp_path / "docker", "boss")))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{ENGINE}")
    monkeypatch.chdir(tmp_path)
    return folder
