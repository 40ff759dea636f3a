"""One store of each engine for all tests of this folder, and a copy for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.scrub.stores import MAKERS, Store
from tests.servers import unmounted


@pytest.fixture(scope="session")
def originals(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Store]]:
    """The store of each engine as the engine created it, never modified."""
    made: dict[str, Store] = {}

    def original(name: str) -> Store:
        if name not in made:
            made[name] = MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    yield original
    for store in made.values():
        unmounted(store.root)


@pytest.fixture
def copy_of(originals: Callable[[str], Store], tmp_path: Path) -> Callable[[str], Store]:
    """Return a copy of an engine's store to tamper with."""
    return lambda name: originals(name).copy(tmp_path / "store")


@pytest.fixture(autouse=True)
def _nothing_stays_mounted(tmp_path: Path) -> Iterator[None]:
    yield
    unmounted(tmp_path)


@pytest.fixture(params=list(MAKERS))
def store(request: pytest.FixtureRequest, copy_of: Callable[[str], Store]) -> Store:
    """A copy of each engine's store."""
    return copy_of(request.param)
