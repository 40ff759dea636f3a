"""What may be told to people and their programs: one frozen value for each event. Pure.

    tag.refused     a push or delete that a seal refused
    tag.moved       a tag that means another image than before, ours or somebody else's; or nothing any more
    tag.held        a tag that moved upstream, and is still served as it was
    base.outdated   an image stands on a base whose tag now means another image
    release.done    a release was deployed
    release.failed  it was not, or not wholly
    quota.low       a registry's pull limit is nearly used up
    upstream.down   a registry that is mirrored or watched does not answer

Each has a sentence (`text`) and a document (`cloud_event`, CloudEvents 1.0 in JSON, type `boltseal.<event>.v1`). A text
is one line of printable ASCII, whatever a name or a reason from outside held: it ends up in terminals, mails and chats.
Who is told, and how, is `notify`; when something happens is for whoever raises it.

A `v1` never loses or changes a key of its `data`; keys may be added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
_is_word: Final = re.compile(r"[!-~]{1,300}").fullmatch


class EventInvalid(Invalid):
    """An event that can't be told: an id, a source or a time that is none."""


class EventKind(StrEnum):
    """The events, by the names that settings and receivers know them by."""

    TAG_REFUSED = "tag.refused"
    TAG_MOVED = "tag.moved"
    TAG_HELD = "tag.held"
    BASE_OUTDATED = "base.outdated"
    RELEASE_DONE = "release.done"
    RELEASE_FAILED = "release.failed"
    QUOTA_LOW = "quota.low"
    UPSTREAM_DOWN = "upstream.down"


@dataclass(frozen=True, slots=True)
class TagRefused:
    """`asked`: push or delete. `digest`: of what was pushed. `reason`: the sentence that the person got."""

    kind: ClassVar[EventKind] = EventKind.TAG_REFUSED
    reference: Reference
    asked: str
    digest: Digest | None
    actor: str
    reason: str

    @property
    def subject(self) -> str:
        """What it is about."""
        return str(self.reference)

    @property
    def text(self) -> str:
        """For people."""
        return f"{_plain(self.asked)} of {self.reference} by {_plain(self.actor)} was refused: {_plain(self.reason)}"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "reference": str(self.reference),
            "asked": _said(self.asked),
            "digest": _digest(self.digest),
            "actor": _said(self.actor),
            "reason": _said(self.reason),
        }


@dataclass(frozen=True, slots=True)
class TagMoved:
    """`was` and `now`: what it meant and means, None for nothing. `release`: it looked like one that stays: an alarm.

    `seen_by`: who saw it, such as mirror or watch.
    """

    kind: ClassVar[EventKind] = EventKind.TAG_MOVED
    reference: Reference
    was: Digest | None
    now: Digest | None
    release: bool
    seen_by: str

    @property
    def subject(self) -> str:
        """What it is about."""
        return str(self.reference)

    @property
    def text(self) -> str:
        """For people."""
        alarm = "ALARM: " if self.release else ""
        was = "nothing" if self.was is None else self.was.short
        if self.now is None:
            return f"{alarm}{self.reference} is gone; it meant {was}"
        tail = ", though it looks like a release, which should never move" if self.release else ""
        return f"{alarm}{self.reference} moved: it meant {was} and means {self.now.short} now{tail}"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "reference": str(self.reference),
            "was": _digest(self.was),
            "digest": _digest(self.now),
            "release": self.release,
            "seen_by": self.seen_by,
        }


@dataclass(frozen=True, slots=True)
class TagHeld:
    """`serves`: what is still served. `held`: what upstream says it means (None: nothing any more). `reason`: by which rule."""

    kind: ClassVar[EventKind] = EventKind.TAG_HELD
    reference: Reference
    serves: Digest | None
    held: Digest | None
    reason: str

    @property
    def subject(self) -> str:
        """What it is about."""
        return str(self.reference)

    @property
    def text(self) -> str:
        """For people."""
        upstream = "says that it is gone" if self.held is None else f"says {self.held.short}"
        serves = "nothing is served" if self.serves is None else f"{self.serves.short} is still served"
        return f"{self.reference} is held: upstream {upstream}, {serves}: {_plain(self.reason)}"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "reference": str(self.reference),
            "serves": _digest(self.serves),
            "held": _digest(self.held),
            "reason": _said(self.reason),
        }


@dataclass(frozen=True, slots=True)
class BaseOutdated:
    """`image` was built on `built_on`, what `base` meant then; now `base` means `now`."""

    kind: ClassVar[EventKind] = EventKind.BASE_OUTDATED
    image: Reference
    base: Reference
    built_on: Digest
    now: Digest

    @property
    def subject(self) -> str:
        """What it is about."""
        return str(self.image)

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"{self.image} is outdated: it was built on {self.base} at {self.built_on.short}, "
            f"which means {self.now.short} now"
        )

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "image": str(self.image),
            "base": str(self.base),
            "built_on": str(self.built_on),
            "digest": str(self.now),
        }


@dataclass(frozen=True, slots=True)
class ReleaseDone:
    """Release `number` of a project runs on `host`, made of `images` (references with digests)."""

    kind: ClassVar[EventKind] = EventKind.RELEASE_DONE
    project: str
    number: int
    host: str
    images: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What it is about."""
        return f"{self.project}/{self.number}"

    @property
    def text(self) -> str:
        """For people."""
        return f"release {self.number} of {_plain(self.project)} runs on {_plain(self.host)}"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "project": _said(self.project),
            "number": self.number,
            "host": _said(self.host),
            "images": [_said(image) for image in self.images],
        }


@dataclass(frozen=True, slots=True)
class ReleaseFailed:
    """Release `number` of a project could not be brought up on `host`; `reason` says why, and what runs instead."""

    kind: ClassVar[EventKind] = EventKind.RELEASE_FAILED
    project: str
    number: int
    host: str
    reason: str

    @property
    def subject(self) -> str:
        """What it is about."""
        return f"{self.project}/{self.number}"

    @property
    def text(self) -> str:
        """For people."""
        return f"release {self.number} of {_plain(self.project)} failed on {_plain(self.host)}: {_plain(self.reason)}"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "project": _said(self.project),
            "number": self.number,
            "host": _said(self.host),
            "reason": _said(self.reason),
        }


@dataclass(frozen=True, slots=True)
class QuotaLow:
    """A registry lets us pull `remaining` times more, of `limit` in `window_s` seconds."""

    kind: ClassVar[EventKind] = EventKind.QUOTA_LOW
    registry: str
    remaining: int
    limit: int
    window_s: int

    @property
    def subject(self) -> str:
        """What it is about."""
        return self.registry

    @property
    def text(self) -> str:
        """For people."""
        window = f" in {self.window_s // 3600} hours" if self.window_s >= 3600 else ""
        return f"{_plain(self.registry)} has {self.remaining} of {self.limit} pulls{window} left for us"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "registry": _said(self.registry),
            "remaining": self.remaining,
            "limit": self.limit,
            "window_s": self.window_s,
        }


@dataclass(frozen=True, slots=True)
class UpstreamDown:
    """A registry does not answer, or with errors only."""

    kind: ClassVar[EventKind] = EventKind.UPSTREAM_DOWN
    registry: str
    reason: str

    @property
    def subject(self) -> str:
        """What it is about."""
        return self.registry

    @property
    def text(self) -> str:
        """For people."""
        return f"{_plain(self.registry)} does not answer: {_plain(self.reason)}"

    def data(self) -> Mapping[str, object]:
        """For programs."""
        return {"registry": _said(self.registry), "reason": _said(self.reason)}


Event = TagRefused | TagMoved | TagHeld | BaseOutdated | ReleaseDone | ReleaseFailed | QuotaLow | UpstreamDown


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvents 1.0 document. `data` is what the event says, and its sentence as `text`."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: Mapping[str, object]


def type_of(kind: EventKind) -> str:
    """The type of an event's document, such as boltseal.tag.moved.v1."""
    return f"boltseal.{kind}.v1"


def cloud_event(event: Event, *, id_: str, source: str, time_us: int) -> bytes:
    """The event as a JSON document. EventInvalid.

    `id_`: one for each event, the same however often it is sent, so that receivers can tell. `source`: who tells, a URI
    reference such as `https://registry.example.com`. `time_us`: when, in microseconds since the epoch.
    """
    for name, word in (("id", id_), ("source", source)):
        if not _is_word(word):
            raise EventInvalid(f"an event's {name} is {quote(word)}; expected 1 to 300 printable characters, no space")
    return msgspec.json.encode(
        CloudEvent(
            id=id_,
            source=source,
            type=type_of(event.kind),
            subject=_plain(event.subject),
            time=_time(time_us),
            data={**event.data(), "text": event.text},
        )
    )


def parse_cloud_event(raw: bytes) -> CloudEvent:
    """Read back what `cloud_event` wrote. EventInvalid."""
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


def _digest(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _said(text: str) -> str:
    """Somebody's words as they are, but for halves of characters, which JSON can't hold, and for a bound."""
    return text[:MAX_DATA].encode("utf-8", "replace").decode()


def _plain(text: str) -> str:
    return quote(text, MAX_REASON)[1:-1]
