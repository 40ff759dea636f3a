"""Delivery by a server whose database takes no writes any more, as during a move to another storage."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from boltseal.events import EventKind, QuotaLow
from boltseal.notify.dispatch import Dispatcher, Receiver
from boltseal.server.notifications.database_outbox import DatabaseOutbox
from boltseal.server.storage.coordination.factory import open_leases
from boltseal.server.storage.metadata.move_fence import MOVING, Fence, put_fence, remove_fence
from boltseal.server.store_factory import open_store, prepare
from tests.polling import until
from tests.serving import settings_of

pytestmark = [pytest.mark.slow, pytest.mark.files_only("closes a data folder with SQLite")]


class ClosesWhenSent:
    """A receiver that accepts an event while the data folder is being closed."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.received: list[str] = []

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """Accept an event."""
        put_fence(self._data, Fence("0" * 32, "postgresql://db/boltseal", "s3://bucket", MOVING))
        self.received.append(id_)

    async def aclose(self) -> None:
        """Do nothing."""


async def test_an_accepted_event_is_not_sent_again_while_that_cannot_be_recorded(tmp_path: Path) -> None:
    """Each second the server tries to record the delivery, without sending the event again, until the database takes writes."""
    data = tmp_path / "data"
    settings = settings_of(data)
    prepare(settings)
    with open_store(settings) as store:
        sender = ClosesWhenSent(data)
        outbox = DatabaseOutbox(store.database, open_leases(data, settings.storage))
        receiver = Receiver("a", frozenset(EventKind), sender)
        dispatcher = Dispatcher(outbox, [receiver], "https://registry.example.com", store.database.now_us)
        thread = threading.Thread(target=lambda: asyncio.run(dispatcher.run()))
        thread.start()
        try:
            dispatcher.notify(QuotaLow("docker.io", 3, 100, 21600))
            troubles = await until(lambda: dispatcher.troubles, "the failed record is reported")
            await asyncio.sleep(2.5)  # two more rounds, in which nothing may be sent
            received = list(sender.received)
            remove_fence(data)
            await until(lambda: not outbox.waiting(), "the delivery is recorded")
        finally:
            dispatcher.end()
            thread.join(20)

    assert "read-only while its content is moved" in troubles[0]
    assert len(received) == len(sender.received) == 1
