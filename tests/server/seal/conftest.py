"""At the end of each test of the seal, fsck verifies the whole store."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _whole_store(whole_store: None) -> None:
    """Check the store with `whole_store` at the end of each test."""
