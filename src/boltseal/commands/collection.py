"""Garbage collection of a registry: the values of `boltseal admin gc`.

`GarbageCollection` has two implementations: on a data folder (`server.commands.collection`) and over the admin API of a registry
(`commands.registry_collection`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

CollectionProgress = Callable[[str, int, int], None]
"""Takes a stage, the number of things that were looked at in it, and the number of all; 0: not known."""


@dataclass(frozen=True, slots=True)
class CollectedItem:
    """What was deleted, or would be. `what`: such as "blob". `freed_bytes`: how many bytes the store has less without it."""

    what: str
    name: str
    size_bytes: int
    reason: str
    status: Literal["removed", "hidden", "kept", "failed"]
    freed_bytes: int


class GarbageCollection(Protocol):
    """Deletes what a registry does not need."""

    def collect(self, *, dry_run: bool, full: bool, progress: CollectionProgress) -> Iterator[CollectedItem]:
        """Delete what is due, and yield it as it is deleted; with `dry_run` only yield it.

        `full`: compare everything that is stored with the database. Raises: Invalid; errors of the data folder, or of the
        connection, after the items that were deleted. The command can be run again.
        """
        ...
