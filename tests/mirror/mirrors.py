"""Mirrors inside this process, of fake upstreams on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from boltseal.events import Event
from boltseal.settings import Settings
from tests.fakes.upstream import FakeUpstream
from tests.serving import Serving, serving_as

NAME = "up.example"


def mirror_settings(data: Path, *upstreams: dict[str, Any], **tables: Any) -> Settings:
    """Settings with these `[[upstream]]` tables."""
    return Settings.model_validate({"server": {"data": data}, "upstream": list(upstreams)} | tables)


def table_of(upstream: FakeUpstream, **more: Any) -> dict[str, Any]:
    """The `[[upstream]]` table of a fake, called `up.example`; without more it is asked each time what a tag means."""
    return {"name": NAME, "url": f"http://{upstream.authority}", "fresh": "0s", **more}


@asynccontextmanager
async def mirroring(
    data: Path,
    upstream: FakeUpstream,
    *,
    server: dict[str, Any] | None = None,
    clock: Callable[[], int] | None = None,
    tell: Callable[[Event], None] | None = None,
    **more: Any,
) -> AsyncIterator[Serving]:
    """A mirror of one upstream that listens. `server`: more of `[server]`; `more`: further keys of the upstream's table."""
    settings = mirror_settings(data, table_of(upstream, **more), server={"data": data, **(server or {})})
    async with serving_as(settings, clock=clock, tell=tell) as serving:
        yield serving


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
