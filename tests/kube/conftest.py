"""A project and a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.shop import KubeShop, kube_shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[KubeShop]:
    """A project and one cluster, whose server must have had no defect at the end."""
    with kube_shop(tmp_path) as made:
        yield made
        assert made.api.defects == []
