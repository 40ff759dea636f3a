"""The pull limits that the mirror's upstreams reported last."""

from __future__ import annotations

from collections.abc import Sequence

from boltseal.client.pull_limit import PullLimit
from boltseal.commands.ratelimit import UpstreamLimit
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.commands.data_folder import on_store
from boltseal.server.registry.upstream_state import UpstreamStates, in_force
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.protocol import NO_PAUSE


def upstream_limits(settings: Settings) -> list[UpstreamLimit]:
    """Return the recorded pull limits of all configured upstreams. Sends no request."""
    return on_store(
        settings, lambda store: limits_of(store.registry.upstreams, settings.upstreams, store.database.now_us())
    )


async def limits_of(upstreams: UpstreamStates, configured: Sequence[UpstreamTerms], now_us: int) -> list[UpstreamLimit]:
    """Return the recorded pull limits of these upstreams. Sends no request."""
    recorded, pauses = await upstreams.every(), await upstreams.pauses()
    found = []
    for terms in configured:
        row = recorded.get(terms.name)
        pause = in_force(pauses.get(terms.name, NO_PAUSE), now_us)
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
                paused_until_us=pause.until_us if pause.until_us > now_us else None,
                pause_reason=pause.reason,
            )
        )
    return found
