"""What is told: sentences that no terminal stumbles over, and documents that programs can rely on."""

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

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
APP = Reference.parse("reg.example/shop/app:1.4.2")
BASE = Reference.parse("node:16.13")
ESCAPE = "\x1b]0;owned\x07\nsecond line\u202e\udc80"

EVERY: list[Event] = [
    TagRefused(APP, "push", ONE, "ci", "it is sealed"),
    TagRefused(APP, "delete", None, "ci", "it is sealed"),
    TagMoved(APP, ONE, TWO, release=True, seen_by="watch"),
    TagMoved(BASE, ONE, TWO, release=False, seen_by="mirror"),
    TagMoved(APP, ONE, None, release=True, seen_by="watch"),
    TagMoved(APP, None, TWO, release=False, seen_by="watch"),
    TagHeld(BASE, ONE, TWO, "on_move = hold"),
    TagHeld(BASE, None, None, "first_seen = hold"),
    BaseOutdated(APP, BASE, ONE, TWO),
    ReleaseDone("shop", 7, "web1", (f"{APP}@{ONE}",)),
    ReleaseFailed("shop", 7, "web1", "web is not healthy; release 6 runs"),
    QuotaLow("docker.io", 9, 100, 21_600),
    QuotaLow("docker.io", 9, 100, 60),
    UpstreamDown("quay.io", "no answer"),
]
HOSTILE: list[Event] = [
    TagRefused(APP, ESCAPE, ONE, ESCAPE, ESCAPE),
    TagHeld(BASE, ONE, TWO, ESCAPE),
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
    """The list of events is the whole truth."""
    assert {event.kind for event in EVERY} == set(EventKind)


def test_the_data_of_an_event_has_these_keys() -> None:
    """A v1 event never loses or renames a key, whatever its fields are called."""
    keys = {str(event.kind): " ".join(event.data()) for event in EVERY}

    assert keys == {
        "tag.refused": "reference asked digest actor reason",
        "tag.moved": "reference was digest release seen_by",
        "tag.held": "reference serves held reason",
        "base.outdated": "image base built_on digest",
        "release.done": "project number host images",
        "release.failed": "project number host reason",
        "quota.low": "registry remaining limit window_s",
        "upstream.down": "registry reason",
    }


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_is_a_cloud_event(event: Event) -> None:
    """Every required attribute is there, and what it says is JSON with its sentence beside it."""
    told = document(event)

    assert told["specversion"] == "1.0"
    assert (told["id"], told["source"], told["time"]) == ("7f", "https://reg.example", "1970-01-01T00:00:01.500000Z")
    assert told["type"] == f"boltseal.{event.kind}.v1"
    assert told["subject"] == event.subject
    assert told["data"] == {**event.data(), "text": event.text}


@pytest.mark.parametrize("event", HOSTILE, ids=lambda event: type(event).__name__)
def test_words_from_outside_steer_no_terminal(event: Event) -> None:
    """An escape sequence, a line break or a direction mark arrives as its code."""
    assert event.text.isascii()
    assert event.text.isprintable()
    assert str(document(event)["subject"]).isprintable()


def test_the_text_of_a_moved_release_is_an_alarm() -> None:
    """The first word shows that it is an alarm."""
    texts = [event.text for event in EVERY if isinstance(event, TagMoved)]

    assert [text.startswith("ALARM: ") for text in texts] == [True, False, True, False]
    assert texts[0] == (
        f"ALARM: reg.example/shop/app:1.4.2 moved from {ONE} to {TWO}, although it looks like "
        "a release, which should never move"
    )
    assert texts[2] == f"ALARM: reg.example/shop/app:1.4.2 is gone; it was {ONE}"


@pytest.mark.parametrize("word", ["", "a b", "a\n", "x" * 301])
def test_an_event_without_an_id_is_refused(word: str) -> None:
    """Receivers distinguish events by source and id."""
    for id_, source in ((word, "s"), ("i", word)):
        with pytest.raises(EventInvalid):
            cloud_event(EVERY[0], id_=id_, source=source, time_us=0)


def test_a_time_that_no_calendar_has_is_refused() -> None:
    """An event is never sent with a wrong year."""
    with pytest.raises(EventInvalid):
        cloud_event(EVERY[0], id_="i", source="s", time_us=2**63)


def test_a_document_is_read_back() -> None:
    """An event that was stored for a later delivery equals the one that was raised."""
    raw = cloud_event(EVERY[0], id_="i", source="s", time_us=0)

    assert parse_cloud_event(raw).data["text"] == EVERY[0].text
    for wrong in (b"", b"[]", b"{}", b'{"id": "\xff"}'):
        with pytest.raises(EventInvalid):
            parse_cloud_event(wrong)
