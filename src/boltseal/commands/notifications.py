"""Notifications of the client's commands: events go to the `[[notify]]` receivers of the user's file, through an outbox."""

from __future__ import annotations

import asyncio
import platform
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stamina.instrumentation import set_on_retry_hooks

from boltseal.commands.client_context import ClientContext
from boltseal.commands.text import clean, counted
from boltseal.errors import BoltsealError
from boltseal.events import Event
from boltseal.notify.dispatch import Dispatcher, OutgoingEvent
from boltseal.notify.outbox_file import OUTBOX_NAME, FileOutbox
from boltseal.notify.receivers import build_dispatcher

WITHIN_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Notifications:
    """The user's receivers. `dispatcher`: None where none is configured, so that events are dropped."""

    client: ClientContext
    dispatcher: Dispatcher | None

    @classmethod
    def of_user(cls, client: ClientContext) -> Notifications:
        """Return the receivers of the user's own file, never a project's. Raises: ProjectInvalid, SecretInvalid, ConfigInvalid."""
        settings = client.settings.receivers
        if not settings:
            return cls(client, None)
        source = f"/boltseal/{clean(platform.node()).replace(' ', '-') or 'host'}"
        outbox = FileOutbox(client.state_folder / OUTBOX_NAME)
        return cls(client, build_dispatcher(settings, outbox, source, client.now_us, quiet=True))

    def put(self, events: Iterable[OutgoingEvent]) -> None:
        """Write events to the outbox; they are on the disk when this returns. Raises: OutboxUnusable, Full."""
        if self.dispatcher is not None:
            self.client.state_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.dispatcher.put(events)

    def put_now(self, events: Iterable[Event]) -> None:
        """Write events that happened just now to the outbox. Raises: OutboxUnusable, Full."""
        now_us = self.client.now_us()
        self.put(OutgoingEvent(uuid.uuid4().hex, now_us, event) for event in events)

    def deliver(self, within_s: float = WITHIN_S) -> None:
        """Deliver the outbox, events of earlier runs included. What can't be delivered in time waits for the next run."""
        if self.dispatcher is None:
            return
        notice = self.client.notice
        set_on_retry_hooks(())  # they would log to stdout
        try:
            waiting = asyncio.run(self.dispatcher.deliver_now(within_s))
        except BoltsealError as error:
            notice(clean(f"boltseal: notifications were not sent: {error.message}"))
            return
        for trouble in self.dispatcher.troubles:
            notice(clean(f"boltseal: {trouble}"))
        if waiting:
            notice(f"{counted(sum(waiting.values()), 'notification')} not delivered yet; the next run tries again")
