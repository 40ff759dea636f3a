"""Events: sentences without control characters, and documents that programs can rely on."""

from __future__ import annotations

import json

import pytest

from boltseal.events import (
    BaseOutdated,
    Event,
    EventInvalid,
    EventKind,
    QuotaLow,
    ReleaseDone,
    ReleaseFailed,
    TagHeld,
    TagMoved,
    TagRefused,
    UpstreamDown,
    cloud_event,
    parse_cloud_event,
)
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

DIGEST, OTHER = Digest.of(b"one"), Digest.of(b"two")
APP = Reference.parse("reg.example/shop/app:1.4.2")
BASE = Reference.parse("node:16.13")
ESCAPE = "\x1b]0;owned\x07\nsecond line\u202e\udc80"

EVERY: list[Event] = [
    TagRefused(APP, "push", DIGEST, "ci", "it is sealed"),
    TagRefused(APP, "delete", None, "ci", "it is sealed"),
    TagMoved(APP, DIGEST, OTHER, release=True, seen_by="watch"),
    TagMoved(BASE, DIGEST, OTHER, release=False, seen_by="mirror"),
    TagMoved(APP, DIGEST, None, release=True, seen_by="watch"),
    TagMoved(APP, None, OTHER, release=False, seen_by="watch"),
    TagHeld(BASE, DIGEST, OTHER, "on_move = hold"),
    TagHeld(BASE, None, None, "first_seen = hold"),
    BaseOutdated(APP, BASE, DIGEST, OTHER),
    ReleaseDone("shop", 7, "web1", (f"{APP}@{DIGEST}",)),
    ReleaseFailed("shop", 7, "web1", "web is not healthy; release 6 runs"),
    QuotaLow("docker.io", 9, 100, 21_600),
    QuotaLow("docker.io", 9, 100, 60),
    UpstreamDown("quay.io", "no answer"),
]
HOSTILE: list[Event] = [
    TagRefused(APP, ESCAPE, DIGEST, ESCAPE, ESCAPE),
    TagHeld(BASE, DIGEST, OTHER, ESCAPE),
    ReleaseDone(ESCAPE, 7, ESCAPE),
    ReleaseFailed(ESCAPE, 7, ESCAPE, ESCAPE),
    QuotaLow(ESCAPE, 1, 2, 3),
    UpstreamDown(ESCAPE, ESCAPE),
]


def document(event: Event) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(
        cloud_event(event, id_="7f", source="https://reg.example", time_us=1_500_000)
    )
    return parsed


def test_there_is_a_value_for_every_event() -> None:
    """The list of event types has a class for each."""
    assert {event.kind for event in EVERY} == set(EventKind)


def test_the_data_of_an_event_has_these_keys() -> None:
    """A version 1 event never loses or renames a key, whatever its fields are called."""
    keys = {str(event.kind): " ".join(event.data()) for event in EVERY}

    assert keys == {
        "tag.refused": "reference asked digest actor reason",
        "tag.moved": "reference was digest release seen_by",
        "tag.held": "reference serves held reason",
        "base.outdated": "image base built_on digest new_image",
        "release.done": "project number host images",
        "release.failed": "project number host reason",
        "quota.low": "registry remaining limit window_s",
        "upstream.down": "registry reason",
    }


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_is_a_cloud_event(event: Event) -> None:
    """An event has every required CloudEvents attribute, and JSON data with a sentence."""
    result = document(event)

    assert result["specversion"] == "1.0"
    assert (result["id"], result["source"], result["time"]) == (
        "7f",
        "https://reg.example",
        "1970-01-01T00:00:01.500000Z",
    )
    assert result["type"] == f"boltseal.{event.kind}.v1"
    assert result["subject"] == event.subject
    assert result["data"] == {**event.data(), "text": event.text}


@pytest.mark.parametrize("event", HOSTILE, ids=lambda event: type(event).__name__)
def test_external_text_has_no_control_characters(event: Event) -> None:
    """Escape sequences, line breaks and direction marks in an event's text are replaced by their codes."""
    assert event.text.isascii()
    assert event.text.isprintable()
    assert str(document(event)["subject"]).isprintable()


def test_the_text_of_a_moved_release_is_an_alarm() -> None:
    """The first word of the text shows that a moved release is an alarm."""
    texts = [event.text for event in EVERY if isinstance(event, TagMoved)]

    assert [text.startswith("ALARM: ") for text in texts] == [True, False, True, False]
    assert texts[0] == (
        f"ALARM: reg.example/shop/app:1.4.2 moved from {DIGEST} to {OTHER}, although it looks like "
        "a release, which should never move"
    )
    assert texts[2] == f"ALARM: reg.example/shop/app:1.4.2 is gone; it was {DIGEST}"


@pytest.mark.parametrize("word", ["", "a b", "a\n", "x" * 301])
def test_an_event_without_an_id_is_refused(word: str) -> None:
    """An event without an ID, by which receivers distinguish events, is refused."""
    for id_, source in ((word, "s"), ("i", word)):
        with pytest.raises(EventInvalid):
            cloud_event(EVERY[0], id_=id_, source=source, time_us=0)


def test_an_impossible_time_is_refused() -> None:
    """A time outside of the calendar is refused, so that no event has a wrong year."""
    with pytest.raises(EventInvalid):
        cloud_event(EVERY[0], id_="i", source="s", time_us=2**63)


def test_a_stored_event_is_read_back() -> None:
    """An event that was stored for later delivery equals the original."""
    raw = cloud_event(EVERY[0], id_="i", source="s", time_us=0)

    assert parse_cloud_event(raw).data["text"] == EVERY[0].text
    for wrong in (b"", b"[]", b"{}", b'{"id": "\xff"}'):
        with pytest.raises(EventInvalid):
            parse_cloud_event(wrong)
