"""Stores of several sizes, made once for all tests of a process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from boltseal.server.store_factory import now_us, prepare
from tests.scale.big_store import DAY_US, BigStore
from tests.scale.growth import SIZES
from tests.serving import Clock, settings_of


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """A data folder of each size, as it was three days ago; for copies only."""
    made = {}
    for size in SIZES:
        data = tmp_path_factory.mktemp(f"size-{size}") / "data"
        then_us = now_us() - 3 * DAY_US
        prepare(settings_of(data), clock=Clock(then_us))
        BigStore(data, size, then_us).fill()
        prepare(settings_of(data))  # signs the ledger
        made[size] = data
    return made
