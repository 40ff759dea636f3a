"""One look at tags of other people's registries, and the next one."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from starlette.responses import Response

from boltseal.client.credentials import CredentialStore
from boltseal.client.docker_hub import PAGE
from boltseal.client.head_requests import SILENCES
from boltseal.client.state import ClientState, StateUnusable
from boltseal.client.tag_observations import TagObservations
from boltseal.client.transport import Transport
from boltseal.commands.tag_watch import TagLook, WatchStatus, look_at
from boltseal.events import Event, QuotaLow, TagMoved, UpstreamDown
from boltseal.notify.dispatch import OutgoingEvent
from boltseal.oci.mediatype import OCI_MANIFEST
from boltseal.oci.reference import Reference
from tests.fakes.hub import FakeHub

pytestmark = pytest.mark.usefixtures("two_attempts")

NODE = Reference.parse("node:16.13.1")
LATEST = Reference.parse("node:latest")
HOUR_US = 3_600_000_000


@pytest.fixture
def hub() -> FakeHub:
    hub = FakeHub()
    publish(hub, NODE, LATEST)
    return hub


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[TagObservations]:
    with TagObservations(ClientState(tmp_path / "state")) as watched:
        yield watched


def publish(hub: FakeHub, *references: Reference, content: str = "one") -> None:
    for reference in references:
        hub.publish(reference.repository, str(reference.tag), content.encode(), OCI_MANIFEST)


async def look(
    hub: FakeHub,
    watched: TagObservations,
    *references: Reference,
    now_us: int = HOUR_US,
    told: list[Event] | None = None,
) -> dict[Reference, TagLook]:
    """What one look finds."""

    def tell(events: Sequence[OutgoingEvent]) -> None:
        if told is not None:
            told.extend(each.event for each in events)

    hub.counted.clear()
    transport = Transport(CredentialStore([]), app=hub.transport())
    try:
        async with aclosing(look_at(transport, watched, references, lambda: now_us, tell)) as looks:
            return {each.reference: each async for each in looks}
    finally:
        await transport.aclose()


async def test_a_release_that_moved_is_an_alarm_and_another_tag_a_line_of_history(
    hub: FakeHub, watched: TagObservations
) -> None:
    """Upstream tags: what looks like a release should never move; `latest` does, by custom."""
    told: list[Event] = []
    first = await look(hub, watched, NODE, LATEST)
    same = await look(hub, watched, NODE, LATEST, now_us=2 * HOUR_US, told=told)
    publish(hub, NODE, LATEST, content="two")
    moved = await look(hub, watched, NODE, LATEST, now_us=3 * HOUR_US, told=told)
    after = await look(hub, watched, NODE, LATEST, now_us=4 * HOUR_US, told=told)

    assert {each.status for each in first.values()} == {WatchStatus.FIRST}
    assert {each.status for each in same.values()} == {WatchStatus.SAME}
    assert {each.status for each in moved.values()} == {WatchStatus.MOVED}
    assert (moved[NODE].alarm, moved[LATEST].alarm) == (True, False)
    assert {each.status for each in after.values()} == {WatchStatus.SAME}
    (event,) = told
    assert isinstance(event, TagMoved)
    assert (event.reference, event.release, event.seen_by) == (NODE, True, "watch")
    assert [len(watched.past(each)) for each in (NODE, LATEST)] == [2, 2]


async def test_only_heads_are_asked_one_for_each_tag(hub: FakeHub, watched: TagObservations) -> None:
    """A GET of a manifest counts as a pull; a tag that is named twice is asked once, its digest left aside."""
    digest = Reference.parse(f"node:latest@sha256:{'0' * 64}")
    looks = await look(hub, watched, NODE, LATEST, NODE, digest, Reference.parse("node"))

    assert set(looks) == {NODE, LATEST}
    assert (hub.counted["HEAD manifest"], hub.counted["GET manifest"], hub.counted["token"]) == (2, 0, 1)


async def test_a_release_that_is_gone_is_an_alarm_once(hub: FakeHub, watched: TagObservations) -> None:
    """And when it comes back as it was, none; as another one, the next."""
    await look(hub, watched, NODE)
    del hub.manifests[NODE.repository][str(NODE.tag)]
    gone = (await look(hub, watched, NODE))[NODE]
    still = (await look(hub, watched, NODE))[NODE]
    publish(hub, NODE)
    back = (await look(hub, watched, NODE))[NODE]
    del hub.manifests[NODE.repository][str(NODE.tag)]
    await look(hub, watched, NODE)
    publish(hub, NODE, content="two")
    other = (await look(hub, watched, NODE))[NODE]

    assert [(each.status, each.alarm) for each in (gone, still, back, other)] == [
        (WatchStatus.GONE, True),
        (WatchStatus.GONE, False),
        (WatchStatus.BACK, False),
        (WatchStatus.MOVED, True),
    ]
    assert "is gone" in gone.event().text
    assert other.event().was is not None


async def test_a_tag_that_never_was_there_is_not_remembered(hub: FakeHub, watched: TagObservations) -> None:
    """Most likely it was typed wrong."""
    typo = Reference.parse("node:16.31.1")
    found = await look(hub, watched, typo, NODE)

    assert (found[typo].status, found[NODE].status) == (WatchStatus.ABSENT, WatchStatus.FIRST)
    assert watched.past(typo) == ()


async def test_a_registry_that_does_not_answer_hides_no_other_registry(hub: FakeHub, watched: TagObservations) -> None:
    """The tags of a silent registry are reported as not checked; it is asked fewer times than it has tags, and nothing
    of them is recorded.
    """
    dead = [Reference.parse(f"127.0.0.1:1/shop/app:1.0.{n}") for n in range(50)]
    await look(hub, watched, NODE)
    told: list[OutgoingEvent] = []
    transport = Transport(CredentialStore([]))
    try:
        async with aclosing(look_at(transport, watched, dead, lambda: 1, told.extend)) as looks:
            found = [each async for each in looks]
    finally:
        await transport.aclose()

    assert {each.status for each in found} == {WatchStatus.UNKNOWN}
    assert len(found) == 50
    assert sum("not asked again" in each.error.message for each in found if each.error) >= 50 - SILENCES - 16
    assert [type(each.event) for each in told] == [UpstreamDown]
    assert (await look(hub, watched, NODE))[NODE].status is WatchStatus.SAME


async def test_a_registry_that_is_asked_too_often_is_left_alone(hub: FakeHub, watched: TagObservations) -> None:
    """429: could not be checked; the other registry is."""
    other = Reference.parse("registry.test/library/node:16.13.1")
    hub.failures = [Response(status_code=429, headers={"retry-after": "3600"})]
    found = await look(hub, watched, NODE, LATEST)
    good = await look(hub, watched, other)

    assert {each.status for each in found.values()} == {WatchStatus.UNKNOWN}
    assert good[other].status is WatchStatus.FIRST


async def test_a_nearly_used_up_pull_limit_is_reported(hub: FakeHub, watched: TagObservations) -> None:
    """HEAD requests are not counted, and their answers state the rest."""
    told: list[Event] = []
    hub.quota = 10
    await look(hub, watched, NODE, told=told)

    assert told == [QuotaLow("docker.io", 10, 100, 21600)]


async def test_a_failed_notification_is_sent_by_the_next_run(hub: FakeHub, watched: TagObservations) -> None:
    """The move and its pending notifications are recorded together, or not at all."""

    def full(_: Sequence[OutgoingEvent]) -> None:
        raise StateUnusable("full")

    await look(hub, watched, NODE)
    publish(hub, NODE, content="two")
    transport = Transport(CredentialStore([]), app=hub.transport())
    with pytest.raises(StateUnusable, match="full"):
        async with aclosing(look_at(transport, watched, [NODE], lambda: 1, full)) as looks:
            _ = [each async for each in looks]
    await transport.aclose()
    told: list[Event] = []
    await look(hub, watched, NODE, told=told)

    assert len(told) == 1


def many(number: int, repository: str = "team/app") -> list[Reference]:
    return [Reference.parse(f"{repository}:1.0.{n}") for n in range(number)]


async def test_docker_hubs_list_saves_requests_where_it_can(hub: FakeHub, watched: TagObservations) -> None:
    """Up to a hundred tags in one request; only what it says otherwise is asked by HEAD, and only that can be an alarm."""
    tags = many(PAGE + 20)
    publish(hub, *tags)
    hub.lists = True
    first = await look(hub, watched, *tags)
    at_first = dict(hub.counted)
    publish(hub, tags[7], tags[90], content="two")
    found = await look(hub, watched, *tags, now_us=2 * HOUR_US)

    assert {each.status for each in first.values()} == {WatchStatus.FIRST}
    assert at_first.get("list", 0) == 0
    assert [each for each in tags if found[each].alarm] == [tags[7], tags[90]]
    assert (hub.counted["list"], hub.counted["HEAD manifest"]) == (2, 2)
    assert watched.past(tags[3])[-1].last_seen_us == 2 * HOUR_US


async def test_an_outdated_listing_is_no_alarm(hub: FakeHub, watched: TagObservations) -> None:
    """A listing that is older than a tag's last observation does not override the registry."""
    tags = many(5)
    publish(hub, *tags)
    hub.lists = True
    await look(hub, watched, *tags)
    before = watched.past(tags[0])[0].digest
    publish(hub, tags[0], content="two")
    hub.lagging = {"team/app:1.0.0": before, "team/app:1.0.1": None}
    hub.lists = False
    await look(hub, watched, *tags)
    hub.lists = True
    found = await look(hub, watched, *tags)

    assert {each.status for each in found.values()} == {WatchStatus.SAME}
    assert hub.counted["HEAD manifest"] == 2


async def test_two_tags_are_not_worth_a_list_and_other_registries_have_none(
    hub: FakeHub, watched: TagObservations
) -> None:
    """HEADs are cheap."""
    few, others = many(2), many(9, "registry.test/team/app")
    publish(hub, *few, *others)
    hub.lists = True
    await look(hub, watched, *few, *others)
    await look(hub, watched, *few, *others)

    assert (hub.counted["list"], hub.counted["HEAD manifest"]) == (0, 11)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"results":[{"name":"1.0.0","digest":"sha256:x"}]}', b'{"results":1}'])
async def test_a_list_that_can_not_be_read_costs_one_request(
    hub: FakeHub, watched: TagObservations, body: bytes
) -> None:
    """Then everything is asked by HEAD."""
    tags = many(5)
    publish(hub, *tags)
    await look(hub, watched, *tags)
    hub.lists, hub.broken_list = True, body
    found = await look(hub, watched, *tags)

    assert {each.status for each in found.values()} == {WatchStatus.SAME}
    assert (hub.counted["list"], hub.counted["HEAD manifest"]) == (1, 5)


@pytest.mark.slow
async def test_looks_gather_nothing(hub: FakeHub, watched: TagObservations) -> None:
    """A service that looks every six hours for a year is as large as after its second look."""
    tags = [each for repository in range(20) for each in many(50, f"team{repository}/app")]
    publish(hub, *tags)
    hub.lists = True
    sizes = []
    tracemalloc.start()
    try:
        for number in range(4):
            await look(hub, watched, *tags, now_us=(number + 1) * HOUR_US)
            hub.seen.clear()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert sizes[3] - sizes[1] < 256 * 1024
    assert len(watched.past(tags[0])) == 1
