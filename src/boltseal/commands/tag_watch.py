"""Resolve tags of other registries once, and compare their digests with earlier observations.

1. On Docker Hub, where several tags of a repository are watched, its tag list is read first: a tag with the same digest in
   it is unchanged. All other tags are resolved by HEAD, never by GET.
2. Observations are saved (`client.tag_observations`), a few hundred at a time. The alarms of a batch are put into the
   outbox by the same transaction, so that a process that ends in between finds the move again.
3. A tag that looks like a release and moved, or is gone, is an alarm; a move of another tag is a line of its history.

A registry that does not answer does not stop the others: its tags could not be checked.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from boltseal.client.docker_hub import list_tags
from boltseal.client.errors import RemoteNotFound, RemoteUnavailable
from boltseal.client.head_requests import resolve_tags
from boltseal.client.pull_limit import PullLimit
from boltseal.client.tag_observations import Observation, TagObservations
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.events import Event, QuotaLow, TagMoved, UpstreamDown
from boltseal.notify.dispatch import OutgoingEvent
from boltseal.oci.digest import Digest
from boltseal.oci.reference import HUB, Reference, Repository, Tag
from boltseal.policy.tag_expectations import TagExpectations

BATCH: Final = 500
BATCH_S: Final = 2.0
WORTH_A_LIST: Final = 3
"""From how many watched tags of one repository on a list request saves other requests."""
LISTS_AT_ONCE: Final = 8
MAX_PAGES: Final = 10
SEEN_BY: Final = "watch"

AlarmHandler = Callable[[Sequence[OutgoingEvent]], None]


class WatchStatus(StrEnum):
    """The result of one look at a tag."""

    FIRST = "first"
    """There is no earlier observation."""
    SAME = "same"
    MOVED = "moved"
    GONE = "gone"
    BACK = "back"
    """The tag was gone, and resolves to the same image as before."""
    ABSENT = "absent"
    """There is no such tag, and there was none before."""
    UNKNOWN = "unknown"
    """The tag could not be checked."""


@dataclass(frozen=True, slots=True)
class TagLook:
    """One look at one tag. `saw`: None if it could not be checked (`error`), or for ABSENT."""

    reference: Reference
    status: WatchStatus
    release: bool
    saw: Observation | None = None
    error: BoltsealError | None = None

    @property
    def changed(self) -> bool:
        """Whether the tag resolves to another image than before, or is gone."""
        return self.status in (WatchStatus.MOVED, WatchStatus.GONE) and self.saw is not None and self.saw.moved

    @property
    def alarm(self) -> bool:
        """Whether a release tag changed, which should never happen."""
        return self.changed and self.release

    def event(self) -> TagMoved:
        """Return the move as an event."""
        if self.saw is None:
            raise AssertionError("nothing moved")
        return TagMoved(self.reference, self.saw.last, self.saw.now.digest, self.release, SEEN_BY)


@dataclass(frozen=True, slots=True)
class _Answer:
    reference: Reference
    digest: Digest | None
    error: BoltsealError | None = None


async def look_at(
    transport: Transport,
    watched: TagObservations,
    references: Iterable[Reference],
    clock_us: Callable[[], int],
    on_alarms: AlarmHandler = lambda _: None,
    expectations: TagExpectations = TagExpectations(),  # noqa: B008 - it has no state
) -> AsyncGenerator[TagLook]:
    """Look at each tag once, and yield the results as answers arrive. `on_alarms`: receives alarms before they are saved.

    `expectations`: which tags move by custom, without an alarm.
    Raises: ObservationsCorrupt, StateUnusable, and what `on_alarms` raises.
    """
    wanted = list(dict.fromkeys(reference.by_tag for reference in references))
    batch: list[_Answer] = []
    down: dict[str, BoltsealError] = {}
    alive: set[str] = set()
    since_s = time.monotonic()
    async with aclosing(_answers(transport, watched, wanted)) as answers:
        async for answer in answers:
            batch.append(answer)
            registry = answer.reference.registry
            if isinstance(answer.error, RemoteUnavailable):
                down.setdefault(registry, answer.error)
            else:
                alive.add(registry)
            if len(batch) >= BATCH or time.monotonic() - since_s >= BATCH_S:
                for look in _remember(watched, batch, clock_us(), on_alarms, expectations):
                    yield look
                batch, since_s = [], time.monotonic()
    for look in _remember(watched, batch, clock_us(), on_alarms, expectations):
        yield look
    silent = [UpstreamDown(name, error.message) for name, error in down.items() if name not in alive]
    more = [*silent, *_low(transport.quotas)]
    if more:
        now_us = clock_us()
        on_alarms([OutgoingEvent(uuid.uuid4().hex, now_us, event) for event in more])


def _low(quotas: dict[str, PullLimit]) -> list[Event]:
    """Return an event for each registry of whose pull limit at most a tenth is left."""
    return [
        QuotaLow(name, quota.remaining, quota.limit, quota.window_s)
        for name, quota in quotas.items()
        if quota.remaining * 10 <= quota.limit
    ]


def _remember(
    watched: TagObservations,
    batch: list[_Answer],
    now_us: int,
    on_alarms: AlarmHandler,
    expectations: TagExpectations,
) -> list[TagLook]:
    """Save the observations of a batch, and return its results (steps 2 and 3)."""
    looks = [
        TagLook(one.reference, WatchStatus.UNKNOWN, _release(one.reference, expectations), error=one.error)
        for one in batch
        if one.error is not None
    ]
    answered = [one for one in batch if one.error is None]
    never = [one for one in answered if one.digest is None and not watched.past(one.reference)]
    looks += [TagLook(one.reference, WatchStatus.ABSENT, _release(one.reference, expectations)) for one in never]
    seen = [(one.reference, one.digest) for one in answered if one not in never]

    def put_alarms(saws: Sequence[Observation]) -> None:
        alarms = [_alarm(look, now_us) for saw in saws if (look := _look_of(saw, expectations)).alarm]
        if alarms:
            on_alarms(alarms)

    if seen:
        looks += [_look_of(saw, expectations) for saw in watched.record_all(seen, now_us, put_alarms)]
    return looks


def _alarm(look: TagLook, now_us: int) -> OutgoingEvent:
    """Return an alarm with an ID that stays the same if it is sent again because its line could not be saved."""
    event = look.event()
    line = 0 if look.saw is None else look.saw.now.line
    named = f"{event.reference} {line} {event.was} {event.now}"
    return OutgoingEvent(sha256(named.encode()).hexdigest()[:32], now_us, event)


def _look_of(saw: Observation, expectations: TagExpectations) -> TagLook:
    if saw.now.digest is None:
        status = WatchStatus.GONE
    elif saw.was is None:
        status = WatchStatus.FIRST
    elif not saw.moved:
        status = WatchStatus.SAME
    else:
        status = WatchStatus.BACK if saw.last == saw.now.digest else WatchStatus.MOVED
    return TagLook(saw.reference, status, _release(saw.reference, expectations, gone=saw.now.digest is None), saw)


def _release(reference: Reference, expectations: TagExpectations, *, gone: bool = False) -> bool:
    """Return whether a tag should never move; one that is rebuilt by custom should at least not be gone."""
    tag = reference.tag or Tag("latest")
    return expectations.alarm(reference.registry, reference.repository, tag, gone=gone)


async def _answers(
    transport: Transport, watched: TagObservations, wanted: Sequence[Reference]
) -> AsyncGenerator[_Answer]:
    """Yield the answer for each tag (step 1)."""
    listed: set[Reference] = set()
    async for answer in _as_before(transport, watched, wanted):
        listed.add(answer.reference)
        yield answer
    async with aclosing(resolve_tags(transport, (each for each in wanted if each not in listed))) as answers:
        async for polled in answers:
            digest = None if polled.resolved is None else polled.resolved.digest
            gone = isinstance(polled.error, RemoteNotFound)
            yield _Answer(polled.reference, digest, None if gone else polled.error)


async def _as_before(
    transport: Transport, watched: TagObservations, wanted: Sequence[Reference]
) -> AsyncGenerator[_Answer]:
    """Yield the tags that Docker Hub's list shows unchanged."""
    by_repository: dict[Repository, dict[Tag, Digest]] = defaultdict(dict)
    for reference in wanted:
        past = watched.past(reference) if reference.registry == HUB else ()
        if past and past[-1].digest is not None and reference.tag is not None:
            by_repository[reference.repository][reference.tag] = past[-1].digest
    worth = [(name, tags) for name, tags in by_repository.items() if len(tags) >= WORTH_A_LIST]
    for start in range(0, len(worth), LISTS_AT_ONCE):
        asked = worth[start : start + LISTS_AT_ONCE]
        found = await asyncio.gather(*(_unchanged(transport, name, tags) for name, tags in asked))
        for (name, tags), (same, _) in zip(asked, found, strict=True):
            for tag in same:
                yield _Answer(Reference(HUB, name, tag), tags[tag])
        if not all(answered for _, answered in found):
            return  # the list service does not answer; the registry itself may answer


async def _unchanged(
    transport: Transport, repository: Repository, tags: dict[Tag, Digest]
) -> tuple[tuple[Tag, ...], bool]:
    """Return the tags that are unchanged, and whether the list service answered. Pages are read while they save requests."""
    same: list[Tag] = []
    open_ = dict(tags)
    for page in range(1, MAX_PAGES + 1):
        try:
            listed, more = await list_tags(transport, repository, page)
        except RemoteNotFound:
            break
        except BoltsealError:
            return tuple(same), False
        named = [tag for tag in open_ if tag in listed]
        same += [tag for tag in named if listed[tag] == open_.pop(tag)]
        if not more or len(named) < 2 or len(open_) < WORTH_A_LIST:
            break
    return tuple(same), True
