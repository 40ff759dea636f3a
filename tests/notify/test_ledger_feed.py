"""Which ledger entries become events, and the events' content."""

from __future__ import annotations

import pytest

from boltseal.errors import Invalid
from boltseal.events import ReleaseDone, TagHeld, TagMoved
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.policy.tag_expectations import TagExpectations, parse_tags
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.notifications.ledger_feed import event_of, event_of_observation

HERE = "registry.example.com"
OLD, NEW = Digest.of(b"old"), Digest.of(b"new")


def entry(
    kind: EntryKind, *, tag: str = "latest", digest: Digest = NEW, was: Digest | None = None, **extra: str
) -> Entry:
    return Entry(
        kind=kind,
        time_us=1,
        registry="some/origin",
        repository="shop/app",
        tag=tag,
        digest=str(digest),
        was="" if was is None else str(was),
        actor="ci",
        salt="0" * 32,
        extra=extra,
    )


def moved(tag: str, was: Digest | None, now: Digest | None, *, alarm: bool = False) -> TagMoved:
    return TagMoved(Reference.parse(f"{HERE}/shop/app:{tag}"), was, now, alarm, "registry")


@pytest.mark.parametrize(
    ("ledger_entry", "event"),
    [
        (entry(EntryKind.TAG_MOVED, was=OLD), moved("latest", OLD, NEW)),
        (entry(EntryKind.TAG_RESTORED, was=OLD), moved("latest", OLD, NEW)),
        (entry(EntryKind.TAG_RESTORED, was=NEW), None),
        (entry(EntryKind.TAG_DELETED, was=OLD, digest=OLD), moved("latest", OLD, None)),
        (entry(EntryKind.TAG_DELETED, tag="1.4.2", was=OLD, digest=OLD), moved("1.4.2", OLD, None, alarm=True)),
        (entry(EntryKind.TAG_PURGED, tag="1.4.2", digest=OLD), moved("1.4.2", OLD, None, alarm=True)),
        (entry(EntryKind.TAG_EXPIRED, tag="1.4.2", was=OLD, digest=OLD), moved("1.4.2", OLD, None)),
        (entry(EntryKind.TAG_DELETED, tag=""), None),
        (entry(EntryKind.TAG_CREATED), None),
        (entry(EntryKind.TAG_SEALED), None),
        (entry(EntryKind.RELEASED), None),
        (entry(EntryKind.RELEASED, project="shop", host="web1", release="-7"), None),
        (
            entry(EntryKind.RELEASED, tag="1.4.2", project="shop", host="web1", release="7"),
            ReleaseDone("shop", 7, "web1", (f"{HERE}/shop/app:1.4.2@{NEW}",)),
        ),
    ],
)
def test_an_entry_is_an_event_or_none(ledger_entry: Entry, event: TagMoved | ReleaseDone | None) -> None:
    """A move becomes an event under the registry's public name; other entries become none."""
    assert event_of(ledger_entry, HERE) == event


def test_an_entry_with_malformed_names_is_refused() -> None:
    """An entry with malformed names is skipped with an error."""
    with pytest.raises(Invalid):
        event_of(entry(EntryKind.TAG_MOVED, tag="not a tag", was=OLD), HERE)


def observation(kind: EntryKind, event_kind: str | None, *, digest: str, was: str, tag: str = "1.4.2") -> Entry:
    return Entry(
        kind=kind,
        time_us=1,
        registry="some/origin/observations",
        repository="docker.io/library/node",
        tag=tag,
        digest=digest,
        was=was,
        reason="held until an administrator accepts it" if kind is EntryKind.HELD else "",
        salt="0" * 32,
        extra={} if event_kind is None else {"told": event_kind},
    )


NODE = Reference.parse("docker.io/library/node:1.4.2")


@pytest.mark.parametrize(
    ("ledger_entry", "event"),
    [
        (observation(EntryKind.OBSERVED, None, digest=str(NEW), was=""), None),
        (
            observation(EntryKind.OBSERVED, "moved", digest=str(NEW), was=str(OLD)),
            TagMoved(NODE, OLD, NEW, True, "mirror"),
        ),
        (observation(EntryKind.OBSERVED, "gone", digest="", was=str(OLD)), TagMoved(NODE, OLD, None, True, "mirror")),
        (
            observation(EntryKind.HELD, "held", digest=str(NEW), was=str(OLD)),
            TagHeld(NODE, OLD, NEW, "held until an administrator accepts it"),
        ),
        (
            observation(EntryKind.HELD, "held", digest=str(NEW), was=""),
            TagHeld(NODE, None, NEW, "held until an administrator accepts it"),
        ),
        (observation(EntryKind.ACCEPTED, None, digest=str(NEW), was=str(OLD)), None),
    ],
)
def test_an_observation_of_a_move_is_an_event(ledger_entry: Entry, event: TagMoved | TagHeld | None) -> None:
    """An upstream tag's observed move becomes an event with the upstream's own name."""
    assert event_of_observation(ledger_entry, {}) == event


@pytest.mark.parametrize(("digest", "alarm"), [(str(NEW), False), ("", True)])
def test_a_table_of_tags_decides_about_the_alarm(digest: str, alarm: bool) -> None:
    """An upstream tag that is rebuilt by custom, by `[[tags]]`, moves without an alarm; its deletion is one."""
    rules = parse_tags([{"repository": "registry-1.docker.io/library/*", "expect": "rebuilt"}])
    terms = UpstreamTerms(name="docker.io", authority="registry-1.docker.io", tags=TagExpectations(rules))
    seen = observation(EntryKind.OBSERVED, "moved" if digest else "gone", digest=digest, was=str(OLD))
    event = event_of_observation(seen, {"docker.io": terms})

    assert isinstance(event, TagMoved)
    assert event.release == alarm
