"""The pull limits that the mirror's upstreams reported last."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.client.pull_limit import PullLimit
from boltseal.server.commands.data_folder import on_store
from boltseal.server.registry.upstream_state import UpstreamPause, UpstreamRow, in_force
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.protocol import NO_PAUSE
from boltseal.server.store_factory import OpenStore


@dataclass(frozen=True, slots=True)
class UpstreamLimit:
    """An upstream's pull limit at `time_us`; `limit` None: it reported none. `down_us`: since when it does not answer.

    `paused_until_us`: it gets no request until then, for `pause_reason`; None: it may get one.
    """

    registry: str
    reserve: int
    limit: PullLimit | None
    time_us: int | None
    down_us: int | None
    down_reason: str
    paused_until_us: int | None
    pause_reason: str


def upstream_limits(settings: Settings) -> list[UpstreamLimit]:
    """Return the recorded pull limits of all configured upstreams. Sends no request."""
    recorded, pauses, now = on_store(settings, _read)
    found = []
    for terms in settings.upstreams:
        row = recorded.get(terms.name)
        pause = in_force(pauses.get(terms.name, NO_PAUSE), now)
        limit = None
        if row is not None and row.quota_limit is not None:
            limit = PullLimit(
                row.quota_limit, row.quota_remaining or 0, row.quota_window_s or 0, row.quota_source or ""
            )
        found.append(
            UpstreamLimit(
                registry=terms.name,
                reserve=terms.reserve,
                limit=limit,
                time_us=None if row is None or limit is None else row.quota_us,
                down_us=None if row is None else row.down_us,
                down_reason="" if row is None else row.down_reason or "",
                paused_until_us=pause.until_us if pause.until_us > now else None,
                pause_reason=pause.reason,
            )
        )
    return found


async def _read(store: OpenStore) -> tuple[dict[str, UpstreamRow], dict[str, UpstreamPause], int]:
    upstreams = store.registry.upstreams
    return await upstreams.every(), upstreams.pauses_and_wait(), store.database.now_us()
