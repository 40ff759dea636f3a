"""What the ledger says happened, as events: each entry once, whatever ends a process, and no push waits for it.

    tag.moved, tag.restored                    TagMoved
    tag.deleted, tag.purged, tag.expired       TagMoved, to nothing; an alarm where the tag looks like a release, unless
                                               its stated time was over
    released, with project, release and host   ReleaseDone

and what the log of observations says of other registries' tags: `told` in an entry's extra says which entries are news.

Anybody who may push can record a release; its event is worth what the entry is worth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from boltseal.errors import Invalid
from boltseal.events import ReleaseDone, TagHeld, TagMoved
from boltseal.ledger.entry import RELEASE_HOST, RELEASE_NUMBER, RELEASE_PROJECT, Entry, EntryKind, parse
from boltseal.notify.dispatch import OutgoingEvent
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.upstream_moves import TOLD
from boltseal.policy.upstream_moves import MoveEvent as Telling
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Snapshot

if TYPE_CHECKING:
    from boltseal.events import Event
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

BATCH: Final = 500
SEEN_BY: Final = "registry"
MIRROR: Final = "mirror"
_GONE: Final = frozenset({EntryKind.TAG_DELETED, EntryKind.TAG_PURGED, EntryKind.TAG_EXPIRED})


class _LogFeed(ABC):
    """One of a store's logs."""

    def __init__(self, database: Metadata, log: Log) -> None:
        self._database = database
        self._log = log

    @property
    def name(self) -> str:
        """What the log is called."""
        return self._log.name

    @abstractmethod
    def _event(self, entry: Entry) -> Event | None:
        """The event that an entry is, or None. Invalid."""

    def size(self) -> int:
        """How many entries there are. Unavailable."""

        def look(snapshot: Snapshot) -> int:
            head = ledger_store.head(snapshot, self._log)
            return 0 if head is None else head.size

        return self._database.read_and_wait(look)

    def read(self, start: int) -> tuple[Sequence[OutgoingEvent], int]:
        """The events from the entry `start` on, of some entries, and where to go on. Unavailable."""

        def look(snapshot: Snapshot) -> list[tuple[int, bytes]]:
            return list(ledger_store.lines(snapshot, start, until=start + BATCH, log=self._log))

        found = self._database.read_and_wait(look)
        told = []
        for index, line in found:
            try:
                entry = parse(line)
                event = self._event(entry)
            except Invalid:
                continue  # `fsck` and the monitor say so; nobody is told of what can't be read
            if event is not None:
                told.append(OutgoingEvent(f"{entry.registry}/{index}", entry.time_us, event))
        return told, found[-1][0] + 1 if found else start + BATCH


class LedgerFeed(_LogFeed):
    """The ledger of one store. `registry`: the name that clients know us by."""

    def __init__(self, database: Metadata, registry: str) -> None:
        super().__init__(database, LEDGER)
        self._registry = registry

    def _event(self, entry: Entry) -> Event | None:
        return event_of(entry, self._registry)


class ObservationFeed(_LogFeed):
    """The log of observations of one store."""

    def __init__(self, database: Metadata) -> None:
        super().__init__(database, OBSERVATIONS)

    def _event(self, entry: Entry) -> Event | None:
        return event_of_observation(entry)


def event_of_observation(entry: Entry) -> Event | None:
    """The event that an observation is, or None. Invalid for one whose names are none."""
    told = entry.extra.get(TOLD)
    upstream, _, repository = entry.repository.partition("/")
    if told is None or not repository or not entry.tag:
        return None
    tag = Tag(entry.tag)
    reference = Reference(upstream, Repository(repository), tag)
    was = Digest.parse(entry.was) if entry.was else None
    now = Digest.parse(entry.digest) if entry.digest else None
    if told == Telling.HELD:
        return TagHeld(reference, was, now, entry.reason)
    return TagMoved(reference, was, now, looks_like_release(tag), MIRROR)


def event_of(entry: Entry, registry: str) -> Event | None:
    """The event that an entry is, or None. Invalid for one whose names are none."""
    if entry.kind is EntryKind.RELEASED:
        number = entry.extra.get(RELEASE_NUMBER, "")
        project, host = entry.extra.get(RELEASE_PROJECT, ""), entry.extra.get(RELEASE_HOST, "")
        if not (project and host and number.isascii() and number.isdecimal() and len(number) < 10):
            return None
        image = f"{registry}/{entry.repository}{f':{entry.tag}' if entry.tag else ''}@{entry.digest}"
        return ReleaseDone(project, int(number), host, (image,))
    if not entry.tag or entry.kind not in _GONE | {EntryKind.TAG_MOVED, EntryKind.TAG_RESTORED}:
        return None
    gone = entry.kind in _GONE
    was = Digest.parse(entry.was or entry.digest) if entry.was or gone else None
    now = None if gone else Digest.parse(entry.digest)
    if was == now:
        return None
    tag = Tag(entry.tag)
    alarm = gone and entry.kind is not EntryKind.TAG_EXPIRED and looks_like_release(tag)
    reference = Reference(registry, Repository(entry.repository), tag)
    return TagMoved(reference, was, now, alarm, SEEN_BY)
