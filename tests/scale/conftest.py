"""Stores of several sizes, made once for all test processes of a session."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from boltseal.server.store_factory import now_us, prepare
from tests.scale.big_store import DAY_US, BigStore
from tests.scale.growth import SIZES
from tests.serving import Clock, settings_of


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """A data folder of each size, as it was three days ago; for copies only. Whichever process needs them first makes them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "scale"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return {size: _made(folder / f"size-{size}") for size in SIZES}


def _made(folder: Path) -> Path:
    """Return the data folder of a size, which is filled unless another process did it."""
    size, data, done = int(folder.name.partition("-")[2]), folder / "data", folder / "done"
    if not done.exists():
        folder.mkdir()
        then_us = now_us() - 3 * DAY_US
        prepare(settings_of(data), clock=Clock(then_us))
        BigStore(data, size, then_us).fill()
        prepare(settings_of(data))  # signs the ledger
        done.touch()
    return data
