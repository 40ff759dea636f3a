"""Every test of the seal ends with a look at the whole store."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _whole_store(whole_store: None) -> None:
    """See `whole_store`."""
