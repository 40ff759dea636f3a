"""Test hosts to pull to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.engines.inventory import ImageStoreKind
from tests.deploy.hosting import Hosting, hosting


@pytest.fixture(params=ImageStoreKind)
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Hosting]:
    """A host with each kind of image store."""
    async with hosting(tmp_path, request.param) as made:
        yield made


@pytest.fixture
async def classic(tmp_path: Path) -> AsyncIterator[Hosting]:
    """A host with Docker's classic store."""
    async with hosting(tmp_path) as made:
        yield made
