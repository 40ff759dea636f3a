"""Events for notifications: one frozen value class per kind of event. Pure.

    tag.refused     a seal refused a push or delete
    tag.moved       a tag, of this or another registry, resolves to another image than before, or was deleted
    tag.held        a tag moved upstream, and the mirror still serves the previous image
    base.outdated   the tag of an image's base resolves to another image now
    release.done    a release was deployed
    release.failed  a release was not deployed, or not completely
    quota.low       a registry's pull limit is nearly used up
    upstream.down   a mirrored or watched registry does not answer

Each event has a sentence (`text`) and a document (`cloud_event`: CloudEvents 1.0 in JSON, type `boltseal.<event>.v1`).
A text is one line of printable ASCII, whatever external names or reasons contain: it is shown in terminals, mails and
chats. `notify` delivers events; the caller decides when one occurs.

A `v1` event never loses or changes a key of its `data`; keys may be added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Reference

MAX_REASON: Final = 500
MAX_DATA: Final = 10_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS: Final = {"now": "digest"}
_is_printable: Final = re.compile(r"[!-~]{1,300}").fullmatch


class EventInvalid(Invalid):
    """An event with a malformed ID, source or time."""


class EventKind(StrEnum):
    """The kinds of events, by their names in settings and documents."""

    TAG_REFUSED = "tag.refused"
    TAG_MOVED = "tag.moved"
    TAG_HELD = "tag.held"
    BASE_OUTDATED = "base.outdated"
    RELEASE_DONE = "release.done"
    RELEASE_FAILED = "release.failed"
    QUOTA_LOW = "quota.low"
    UPSTREAM_DOWN = "upstream.down"


@dataclass(frozen=True, slots=True)
class _Event:
    """What events have in common. The names of the fields are the keys of `data`, with the exceptions in _KEYS."""

    kind: ClassVar[EventKind]

    @property
    def subject(self) -> str:
        """Return the subject: the first field."""
        return str(getattr(self, fields(self)[0].name))

    @classmethod
    def data_keys(cls) -> tuple[str, ...]:
        """Return the keys of `data`, in the order of the fields."""
        return tuple(_KEYS.get(each.name, each.name) for each in fields(cls))

    def data(self) -> Mapping[str, object]:
        """Return the data for programs."""
        values = (_value(getattr(self, each.name)) for each in fields(self))
        return dict(zip(self.data_keys(), values, strict=True))


@dataclass(frozen=True, slots=True)
class TagRefused(_Event):
    """A seal refused a push or delete (`asked`). `digest`: of the pushed manifest. `reason`: the error message."""

    kind: ClassVar[EventKind] = EventKind.TAG_REFUSED
    reference: Reference
    asked: str
    digest: Digest | None
    actor: str
    reason: str

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        return f"{_plain(self.asked)} of {self.reference} by {_plain(self.actor)} was refused: {_plain(self.reason)}"


@dataclass(frozen=True, slots=True)
class TagMoved(_Event):
    """A tag moved from `was` to `now`; None: no such tag. `release`: it looks like a release, so the move is an alarm.

    `seen_by`: the observer, such as registry, mirror or watch.
    """

    kind: ClassVar[EventKind] = EventKind.TAG_MOVED
    reference: Reference
    was: Digest | None
    now: Digest | None
    release: bool
    seen_by: str

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        alarm = "ALARM: " if self.release else ""
        was = "nothing" if self.was is None else str(self.was)
        if self.now is None:
            return f"{alarm}{self.reference} is gone; it was {was}"
        tail = ", although it looks like a release, which should never move" if self.release else ""
        return f"{alarm}{self.reference} moved from {was} to {self.now}{tail}"


@dataclass(frozen=True, slots=True)
class TagHeld(_Event):
    """A mirrored tag moved upstream and is held. `serves`: the digest still served. `held`: upstream's; None: deleted
    there.

    `reason`: the rule that holds it.
    """

    kind: ClassVar[EventKind] = EventKind.TAG_HELD
    reference: Reference
    serves: Digest | None
    held: Digest | None
    reason: str

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        upstream = "deleted it" if self.held is None else f"moved it to {self.held}"
        serves = "nothing is served" if self.serves is None else f"{self.serves} is still served"
        return f"{self.reference} is held: upstream {upstream}, {serves}: {_plain(self.reason)}"


@dataclass(frozen=True, slots=True)
class BaseOutdated(_Event):
    """`image` was built when `base` resolved to `built_on`; now `base` resolves to `now`.

    `new_image`: what a rebuild should push: the image, or the next revision of a sealed tag; None outside of a request.
    """

    kind: ClassVar[EventKind] = EventKind.BASE_OUTDATED
    image: Reference
    base: Reference
    built_on: Digest
    now: Digest
    new_image: Reference | None = None

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        return (
            f"{self.image} is outdated: it was built on {self.base} at {self.built_on}, "
            f"which now resolves to {self.now}"
        )


@dataclass(frozen=True, slots=True)
class ReleaseDone(_Event):
    """Release `number` of a project runs on `host`. `images`: references with digests."""

    kind: ClassVar[EventKind] = EventKind.RELEASE_DONE
    project: str
    number: int
    host: str
    images: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Return project and number."""
        return f"{self.project}/{self.number}"

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        return f"release {self.number} of {_plain(self.project)} runs on {_plain(self.host)}"


@dataclass(frozen=True, slots=True)
class ReleaseFailed(_Event):
    """Release `number` of a project failed on `host`. `reason`: why, and what runs instead."""

    kind: ClassVar[EventKind] = EventKind.RELEASE_FAILED
    project: str
    number: int
    host: str
    reason: str

    @property
    def subject(self) -> str:
        """Return project and number."""
        return f"{self.project}/{self.number}"

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        return f"release {self.number} of {_plain(self.project)} failed on {_plain(self.host)}: {_plain(self.reason)}"


@dataclass(frozen=True, slots=True)
class QuotaLow(_Event):
    """A registry's pull limit: `remaining` pulls left of `limit` in `window_s` seconds."""

    kind: ClassVar[EventKind] = EventKind.QUOTA_LOW
    registry: str
    remaining: int
    limit: int
    window_s: int

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        window = f" in {self.window_s // 3600} hours" if self.window_s >= 3600 else ""
        return f"{_plain(self.registry)} has {self.remaining} of {self.limit} pulls{window} left"


@dataclass(frozen=True, slots=True)
class UpstreamDown(_Event):
    """A registry does not answer, or only with errors."""

    kind: ClassVar[EventKind] = EventKind.UPSTREAM_DOWN
    registry: str
    reason: str

    @property
    def text(self) -> str:
        """Return the sentence for people."""
        return f"{_plain(self.registry)} does not answer: {_plain(self.reason)}"


Event = TagRefused | TagMoved | TagHeld | BaseOutdated | ReleaseDone | ReleaseFailed | QuotaLow | UpstreamDown


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvents 1.0 document. `data`: the data of the event, and its sentence as `text`."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: Mapping[str, object]


def event_type(kind: EventKind) -> str:
    """Return the type of an event's document, such as boltseal.tag.moved.v1."""
    return f"boltseal.{kind}.v1"


def cloud_event(event: Event, *, id_: str, source: str, time_us: int) -> bytes:
    """Format an event as a JSON document.

    `id_`: unique per event and equal in every delivery, so that receivers can deduplicate. `source`: the sender, a URI
    reference such as `https://registry.example.com`. `time_us`: microseconds since the epoch.

    Raises: EventInvalid.
    """
    for name, value in (("id", id_), ("source", source)):
        if not _is_printable(value):
            raise EventInvalid(f"an event's {name} is {quote(value)}; expected 1 to 300 printable characters, no space")
    return msgspec.json.encode(
        CloudEvent(
            id=id_,
            source=source,
            type=event_type(event.kind),
            subject=_plain(event.subject),
            time=_time(time_us),
            data={**event.data(), "text": event.text},
        )
    )


def parse_cloud_event(raw: bytes) -> CloudEvent:
    """Parse a document that `cloud_event` wrote. Raises: EventInvalid."""
    try:
        return decode(raw, CloudEvent)
    except ValueError as error:
        raise EventInvalid(f"not an event: {error}") from error


def _time(time_us: int) -> str:
    try:
        moment = _EPOCH + timedelta(microseconds=time_us)
    except OverflowError as error:
        raise EventInvalid(f"an event's time is {time_us} us; expected microseconds since 1970") from error
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def _value(value: object) -> object:
    """Return the value of a field for JSON."""
    if isinstance(value, tuple):
        return [_text(each) for each in value]
    return value if value is None or isinstance(value, int) else _text(str(value))


def _text(text: str) -> str:
    """Return external text without lone surrogates, which JSON can't contain, and of bounded length."""
    return text[:MAX_DATA].encode("utf-8", "replace").decode()


def _plain(text: str) -> str:
    return quote(text, MAX_REASON)[1:-1]
