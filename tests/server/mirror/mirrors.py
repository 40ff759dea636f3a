"""Mirrors inside this process, of fake upstreams on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from boltseal.events import Event
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.last_pull import LastPulls
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstream_lists import ListBounds, UpstreamLists
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.mirror_factory import build_upstreams
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock
from boltseal.server.store_factory import open_store
from tests.fakes.upstream import FakeUpstream
from tests.serving import Serving, serving_as
from tests.storage_choice import with_storage

NAME = "up.example"
LISTS = ListBounds()


def mirror_settings(data: Path, *upstreams: dict[str, Any], **tables: Any) -> Settings:
    """Return settings with these `[[upstream]]` tables."""
    return with_storage(Settings.model_validate({"server": {"data": data}, "upstream": list(upstreams)} | tables))


def table_of(upstream: FakeUpstream, **more: Any) -> dict[str, Any]:
    """Return the `[[upstream]]` table of a fake, named `up.example`; by default it resolves a tag at each request."""
    return {"name": NAME, "url": f"http://{upstream.authority}", "fresh": "0s", **more}


@asynccontextmanager
async def mirroring(
    data: Path,
    upstream: FakeUpstream,
    *,
    server: dict[str, Any] | None = None,
    clock: Callable[[], int] | None = None,
    on_event: Callable[[Event], None] | None = None,
    **more: Any,
) -> AsyncIterator[Serving]:
    """Run a listening mirror of one upstream. `server`: more of `[server]`; `more`: further keys of the upstream's
    table."""
    settings = mirror_settings(data, table_of(upstream, **more), server={"data": data, **(server or {})})
    async with serving_as(settings, clock=clock, on_event=on_event) as serving:
        yield serving


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """An empty upstream."""
    async with FakeUpstream().listening() as listening:
        yield listening


@pytest.fixture
async def mirror(data: Path, upstream: FakeUpstream, whole_store: None) -> AsyncIterator[Serving]:
    """A mirror of the upstream, whose store is checked by fsck at the end."""
    async with mirroring(data, upstream) as serving:
        yield serving


Tags = TypeVar("Tags", bound=UpstreamTags)


@dataclass(frozen=True, slots=True)
class BareMirror(Generic[Tags]):
    """A mirror without HTTP before it, and its parts."""

    mirror: MirrorCache
    upstream: Upstream
    tags: Tags
    uses: LastPulls
    store: OpenStore


@asynccontextmanager
async def bare_mirror(
    settings: Settings,
    clock: Callable[[], int],
    *,
    tags: type[Tags],
    pending_limit: int = 1000,
    cache_limit: int = 1000,
    lists: ListBounds = LISTS,
    timeout_s: float = 8.0,
) -> AsyncIterator[BareMirror[Tags]]:
    """Return a mirror of the first upstream of the settings. `tags`: the class that resolves tags; limits are those of
    the parts."""
    async with serving_as(settings, clock=clock):  # for a store with a log
        pass
    upstreams = build_upstreams(settings.upstreams)
    with open_store(settings, clock=clock) as store:
        registry, locks = store.registry, FileInterprocessLock(settings.server.data)
        limits = UpstreamLimits(registry.upstreams, clock=clock, on_event=_ignore)
        common: dict[str, Any] = {"clock": clock, "read_only": _writable, "count": _ignore}
        resolver = tags(registry.observations, limits, locks, on_event=_ignore, timeout_s=timeout_s, **common)
        relay = UpstreamLists(store.database, registry.pulls, limits, clock, lists)
        uses = LastPulls(store.database, clock, _writable, pending_limit)
        parts = (upstreams, resolver, limits, registry, store.blobs, relay, locks, uses)
        mirror = MirrorCache(*parts, check_disk=_ignore, cache_limit=cache_limit, **common)
        try:
            yield BareMirror(mirror, next(iter(upstreams.by_name.values())), resolver, uses, store)
        finally:
            await mirror.aclose()
            await upstreams.aclose()
            locks.close()


def _writable() -> None:
    """Report that writes are possible."""


def _ignore(_: object) -> None:
    """Ignore the event."""
