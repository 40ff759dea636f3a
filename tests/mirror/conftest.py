"""An upstream that answers, and a mirror of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream
from tests.mirror.mirrors import mirroring
from tests.serving import Serving


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """An empty upstream."""
    async with FakeUpstream().listening() as listening:
        yield listening


@pytest.fixture
async def mirror(data: Path, upstream: FakeUpstream, whole_store: None) -> AsyncIterator[Serving]:
    """A mirror of it, whose store must be whole in the end."""
    async with mirroring(data, upstream) as serving:
        yield serving
