"""The state of an outbox on disk while a dispatcher uses it in another thread."""

from __future__ import annotations

import contextlib
from pathlib import Path

from boltseal.notify.outbox import OutboxUnusable
from boltseal.notify.outbox_file import FileOutbox
from tests.polling import until


def undelivered(folder: Path) -> dict[str, int]:
    """Return the number of events that each receiver has not accepted yet."""
    with contextlib.closing(FileOutbox(folder / "outbox.db")) as outbox:
        return outbox.waiting()


async def until_undelivered(folder: Path, expected: dict[str, int]) -> None:
    """Wait until each receiver has so many undelivered events; the outbox changes a moment after a delivery."""
    await until(lambda: undelivered(folder) == expected, f"the undelivered events are {expected}")


async def until_feed_read(folder: Path, position: int | None = None, name: str = "log") -> None:
    """Wait until a feed is read, or read up to a position."""

    def read() -> bool:
        outbox = FileOutbox(folder / "outbox.db")
        with contextlib.closing(outbox), contextlib.suppress(OutboxUnusable):
            found = outbox.contents()[1].get(name)
            return found is not None and position in (None, found)
        return False

    await until(read, f"the feed {name} is read")
