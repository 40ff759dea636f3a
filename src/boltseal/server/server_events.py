"""Events of a running server: logged, and sent to the configured receivers."""

from __future__ import annotations

import asyncio

from boltseal.events import Event, TagHeld, TagMoved, TagRefused
from boltseal.notify.receivers import Notifier, build_dispatcher
from boltseal.oci.reference import Reference
from boltseal.server.mirror.upstream_limits import EventHandler
from boltseal.server.notifications.database_outbox import DatabaseOutbox
from boltseal.server.notifications.ledger_feed import LedgerFeed, ObservationFeed
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.refusals import RefusedWrite
from boltseal.server.settings import Settings, registry_name
from boltseal.server.storage.coordination.factory import open_leases


class ServerEvents:
    """Takes the events of one worker. `log`: takes each event before the receivers do."""

    def __init__(self, log: EventHandler) -> None:
        self._log = log
        self._notifier: Notifier | None = None
        self._registry = ""

    def start(self, settings: Settings, store: OpenStore) -> None:
        """Start to notify the configured receivers. A read-only server does not: it records nothing."""
        self._registry = registry_name(settings)
        dispatcher = build_dispatcher(
            settings.receivers,
            DatabaseOutbox(store.database, open_leases(settings.server.data, settings.storage)),
            settings.server.public_url or f"http://{self._registry}",
            store.database.now_us,
            (LedgerFeed(store.database, self._registry), ObservationFeed(store.database, settings.upstreams)),
        )
        if dispatcher is not None:
            self._notifier = Notifier(dispatcher)
            self._notifier.start()

    def handle(self, event: Event) -> None:
        """Log an event and send it to the configured receivers.

        Events that the log of observations records are sent from there, so that they survive the end of a process.
        """
        self._log(event)
        if self._notifier is not None and not isinstance(event, TagMoved | TagHeld):
            self._notifier.dispatcher.notify(event)

    def refused(self, refused: RefusedWrite) -> None:
        """Notify the receivers of a refused write. It is already logged."""
        if self._notifier is None:
            return
        for tag in refused.tags or (None,):
            named = Reference(self._registry, refused.repository, tag, None if tag else refused.digest)
            self._notifier.dispatcher.notify(
                TagRefused(named, refused.request, refused.digest, refused.actor, refused.reason)
            )

    @property
    def troubles(self) -> tuple[str, ...]:
        """What prevents notifications, for readiness."""
        return () if self._notifier is None else tuple(self._notifier.dispatcher.troubles)

    async def aclose(self) -> None:
        """End the notifications. Idempotent."""
        if self._notifier is not None:
            await asyncio.to_thread(self._notifier.close)
