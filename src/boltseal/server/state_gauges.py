"""Gauges of upstreams and notifications; absent while the database or the outbox can't be read."""

from __future__ import annotations

from boltseal.errors import BoltsealError
from boltseal.server.mirror.upstream_limits import upstream_gauges
from boltseal.server.notifications.database_outbox import waiting_events
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import Settings
from boltseal.server.storage.metrics import Gauge


def upstream_state(settings: Settings, store: OpenStore, now_us: int) -> list[Gauge]:
    """Return the gauges of the configured upstreams. Called in a thread."""
    if not settings.upstreams:
        return []
    upstreams = store.registry.upstreams
    try:
        return list(
            upstream_gauges(settings.upstreams, upstreams.every_and_wait(), upstreams.pauses_and_wait(), now_us)
        )
    except BoltsealError:
        return []


def outbox_state(settings: Settings, store: OpenStore) -> list[Gauge]:
    """Return the gauge of the notifications that wait. Called in a thread."""
    if not settings.receivers:
        return []
    try:
        waiting = waiting_events(store.database, (each.name for each in settings.receivers))
    except BoltsealError:
        return []
    return [Gauge("boltseal_outbox_events", "Notifications not delivered yet", waiting, "receiver")]
