"""A registry to move, and places to move it to, for the tests of moves and backups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.server.settings import Settings
from tests.server.commands import moving
from tests.storage_servers import ObjectServer, Postgres


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data folder with content of every kind."""
    data = tmp_path / "old"
    asyncio.run(moving.fill(data))
    return data


@pytest.fixture
def place(
    tmp_path: Path, postgres_server: Postgres, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Settings]:
    """Return a function that makes the settings of another server: an empty database, a prefix, a mark, a folder."""
    for name, value in moving.AWS.items():
        monkeypatch.setenv(name, value)

    def make(name: str) -> Settings:
        (tmp_path / name).mkdir()
        return moving.target(tmp_path / name, postgres_server, object_server)

    return make


@pytest.fixture
def target(place: Callable[[str], Settings]) -> Settings:
    """The settings of the new server."""
    return place("target")
