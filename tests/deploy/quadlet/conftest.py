"""The project of units that all tests of this folder deploy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.quadlet.units_project import UnitsProject


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[UnitsProject]:
    """An empty project."""
    with UnitsProject(tmp_path) as made:
        yield made
