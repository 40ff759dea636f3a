"""Makes notification events of ledger entries. No entry is lost when a process dies, and no push waits for delivery.

    tag.moved, tag.restored                    TagMoved
    tag.deleted, tag.purged, tag.expired       TagMoved, to nothing; an alarm if the tag looks like a release and its keep
                                               time was not over
    released, with project, release and host   ReleaseDone

Entries of the log of observations become events about other registries' tags; `told` in an entry's extra says which
entries do.

Any user with the push right can record a release, so the event is no more trustworthy than the entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Final

from boltseal.errors import Invalid
from boltseal.events import Event, ReleaseDone, TagHeld, TagMoved
from boltseal.ledger.entry import RELEASE_HOST, RELEASE_NUMBER, RELEASE_PROJECT, Entry, EntryKind, IndexedLine, parse
from boltseal.notify.dispatch import FeedPage, OutgoingEvent
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.upstream_moves import EVENT_KEY, MoveEvent
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Metadata, Snapshot

BATCH: Final = 500
SEEN_BY: Final = "registry"
MIRROR: Final = "mirror"
_GONE: Final = frozenset({EntryKind.TAG_DELETED, EntryKind.TAG_PURGED, EntryKind.TAG_EXPIRED})


class _LogFeed(ABC):
    """The events of one log of a store."""

    def __init__(self, database: Metadata, log: Log) -> None:
        self._database = database
        self._log = log

    @property
    def name(self) -> str:
        """The name of the log."""
        return self._log.name

    @abstractmethod
    def _event(self, entry: Entry) -> Event | None:
        """Return the event of an entry, or None. Invalid: as `event_of`."""

    def size(self) -> int:
        """Return how many entries the log has. Unavailable: the database does not answer."""

        def look_up(snapshot: Snapshot) -> int:
            head = ledger_store.head(snapshot, self._log)
            return 0 if head is None else head.size

        return self._database.read_and_wait(look_up)

    def read(self, start: int) -> FeedPage:
        """Return the events of the next entries from `start` on."""

        def look_up(snapshot: Snapshot) -> list[IndexedLine]:
            return list(ledger_store.lines(snapshot, start, until=start + BATCH, log=self._log))

        found = self._database.read_and_wait(look_up)
        events = []
        for index, line in found:
            try:
                entry = parse(line)
                event = self._event(entry)
            except Invalid:
                continue  # `admin fsck` and the ledger monitor report it
            if event is not None:
                events.append(OutgoingEvent(f"{entry.registry}/{index}", entry.time_us, event))
        return FeedPage(events, found[-1][0] + 1 if found else start + BATCH)


class LedgerFeed(_LogFeed):
    """The events of the ledger. `registry`: the name under which clients use this registry."""

    def __init__(self, database: Metadata, registry: str) -> None:
        super().__init__(database, LEDGER)
        self._registry = registry

    def _event(self, entry: Entry) -> Event | None:
        return event_of(entry, self._registry)


class ObservationFeed(_LogFeed):
    """The events of the log of observations. `upstreams`: the configured ones, which say how their tags move."""

    def __init__(self, database: Metadata, upstreams: Iterable[UpstreamTerms]) -> None:
        super().__init__(database, OBSERVATIONS)
        self._upstreams = {terms.name: terms for terms in upstreams}

    def _event(self, entry: Entry) -> Event | None:
        return event_of_observation(entry, self._upstreams)


def event_of_observation(entry: Entry, upstreams: Mapping[str, UpstreamTerms]) -> Event | None:
    """Return the event of an observation, or None. `upstreams`: by name; one that is not configured has default terms.

    Raises:
        Invalid: repository, tag or digest cannot be parsed.
    """
    news = entry.extra.get(EVENT_KEY)
    upstream, _, repository = entry.repository.partition("/")
    if news is None or not repository or not entry.tag:
        return None
    tag = Tag(entry.tag)
    reference = Reference(upstream, Repository(repository), tag)
    was = Digest.parse(entry.was) if entry.was else None
    now = Digest.parse(entry.digest) if entry.digest else None
    if news == MoveEvent.HELD:
        return TagHeld(reference, was, now, entry.reason)
    terms = upstreams.get(upstream) or UpstreamTerms(name=upstream, authority=upstream)
    return TagMoved(reference, was, now, terms.alarm(reference.repository, tag, gone=now is None), MIRROR)


def event_of(entry: Entry, registry: str) -> Event | None:
    """Return the event of a ledger entry, or None. `registry`: the name of this registry in references.

    Raises:
        Invalid: repository, tag or digest cannot be parsed.
    """
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
