"""Fixtures of the command line tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server
from tests.thread_server import boltseal_in_thread


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, no_personal_settings: None) -> None:
    """Use no setting of this machine, and a terminal of 80 columns."""
    for name in os.environ:
        if name.startswith("BOLTSEAL_") and name not in ("BOLTSEAL_STATE", "BOLTSEAL_ENGINES"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An empty boltseal with the built-in rules, in a thread, since these tests are about commands."""
    with boltseal_in_thread(tmp_path / "data") as running:
        yield running
