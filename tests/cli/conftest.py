"""Fixtures of the command line's tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the machine that the tests run on, and the terminal has 80 columns."""
    for name in os.environ:
        if name.startswith("BOLTSEAL_") and name != "BOLTSEAL_STATE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
