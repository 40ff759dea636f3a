"""What the verbs of clients share that tell somebody of what they found: the user's own `[[notify]]`, and the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boltseal.cli.answer import say
from boltseal.cli.clock import clock_us
from boltseal.commands.text import clean, counted
from boltseal.errors import BoltsealError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from boltseal.events import Event
    from boltseal.notify.dispatch import Dispatcher, OutgoingEvent

WITHIN_S: Final = 20.0


@dataclass(slots=True)
class Telling:
    """Who is told; nobody where the user has configured no receiver."""

    dispatcher: Dispatcher | None
    folder: Path | None = None

    @classmethod
    def of_user(cls) -> Telling:
        """As the user's own file says, never a project's. ProjectInvalid, SecretInvalid, ConfigInvalid."""
        import platform

        from boltseal.config import client_paths, state_folder
        from boltseal.notify.receivers import build_dispatcher
        from boltseal.project.settings import client_settings

        terms = client_settings(client_paths().settings).receivers
        if not terms:
            return cls(None)
        folder = state_folder()
        source = f"/boltseal/{clean(platform.node()).replace(' ', '-') or 'host'}"
        return cls(build_dispatcher(terms, folder, source, clock_us, quiet=True), folder)

    def put(self, told: Iterable[OutgoingEvent]) -> None:
        """Write down what is to be told; it is on the disk when this returns. OutboxUnusable, Full."""
        if self.dispatcher is not None and self.folder is not None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.dispatcher.put(told)

    def tell(self, events: Iterable[Event]) -> None:
        """The same of events that happened just now."""
        import uuid

        from boltseal.notify.dispatch import OutgoingEvent

        now_us = clock_us()
        self.put(OutgoingEvent(uuid.uuid4().hex, now_us, event) for event in events)

    def deliver(self, within_s: float = WITHIN_S) -> None:
        """Deliver what waits, also from earlier runs; what can't be delivered in that time waits for the next run."""
        if self.dispatcher is None:
            return
        import asyncio

        from stamina.instrumentation import set_on_retry_hooks

        set_on_retry_hooks(())  # they log, and to stdout
        try:
            waiting = asyncio.run(self.dispatcher.deliver_now(within_s))
        except BoltsealError as error:
            say(clean(f"boltseal: nobody was told: {error.message}"))
            return
        for trouble in self.dispatcher.troubles:
            say(clean(f"boltseal: {trouble}"))
        if waiting:
            say(f"{counted(sum(waiting.values()), 'notification')} not delivered yet; the next run tries again")
