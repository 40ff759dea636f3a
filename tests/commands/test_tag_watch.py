"""One round of `watch` over tags of other operators' registries, and the next round."""

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
from boltseal.policy.tag_expectations import TagExpectations, parse_tags
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
    notified: list[Event] | None = None,
    expectations: TagExpectations = TagExpectations(),  # noqa: B008 - it has no state
) -> dict[Reference, TagLook]:
    """Return the findings of one round."""

    def notify(events: Sequence[OutgoingEvent]) -> None:
        if notified is not None:
            notified.extend(each.event for each in events)

    hub.counted.clear()
    transport = Transport(CredentialStore([]), app=hub.transport())
    try:
        async with aclosing(look_at(transport, watched, references, lambda: now_us, notify, expectations)) as looks:
            return {each.reference: each async for each in looks}
    finally:
        await transport.aclose()


async def test_a_release_that_moved_is_an_alarm_and_another_tag_a_line_of_history(
    hub: FakeHub, watched: TagObservations
) -> None:
    """A moved tag of a release is an alarm; a moved `latest` is recorded only."""
    notified: list[Event] = []
    first = await look(hub, watched, NODE, LATEST)
    same = await look(hub, watched, NODE, LATEST, now_us=2 * HOUR_US, notified=notified)
    publish(hub, NODE, LATEST, content="two")
    moved = await look(hub, watched, NODE, LATEST, now_us=3 * HOUR_US, notified=notified)
    after = await look(hub, watched, NODE, LATEST, now_us=4 * HOUR_US, notified=notified)

    assert {each.status for each in first.values()} == {WatchStatus.FIRST}
    assert {each.status for each in same.values()} == {WatchStatus.SAME}
    assert {each.status for each in moved.values()} == {WatchStatus.MOVED}
    assert (moved[NODE].alarm, moved[LATEST].alarm) == (True, False)
    assert {each.status for each in after.values()} == {WatchStatus.SAME}
    (event,) = notified
    assert isinstance(event, TagMoved)
    assert (event.reference, event.release, event.seen_by) == (NODE, True, "watch")
    assert [len(watched.past(each)) for each in (NODE, LATEST)] == [2, 2]


async def test_a_tag_that_is_rebuilt_by_custom_moves_without_an_alarm(hub: FakeHub, watched: TagObservations) -> None:
    """By `[[tags]]` a release may be rebuilt without an alarm; its deletion is still one."""
    rules = TagExpectations(parse_tags([{"repository": "docker.io/library/**", "expect": "rebuilt"}]))
    await look(hub, watched, NODE, expectations=rules)
    publish(hub, NODE, content="two")
    moved = (await look(hub, watched, NODE, expectations=rules))[NODE]
    del hub.manifests[NODE.repository][str(NODE.tag)]
    gone = (await look(hub, watched, NODE, expectations=rules))[NODE]

    assert [(each.status, each.alarm) for each in (moved, gone)] == [
        (WatchStatus.MOVED, False),
        (WatchStatus.GONE, True),
    ]


async def test_only_heads_are_asked_one_for_each_tag(hub: FakeHub, watched: TagObservations) -> None:
    """Each tag costs one HEAD, also if it is named twice; no manifest is fetched, which would count as a pull."""
    digest = Reference.parse(f"node:latest@sha256:{'0' * 64}")
    looks = await look(hub, watched, NODE, LATEST, NODE, digest, Reference.parse("node"))

    assert set(looks) == {NODE, LATEST}
    assert (hub.counted["HEAD manifest"], hub.counted["GET manifest"], hub.counted["token"]) == (2, 0, 1)


async def test_a_release_that_is_gone_is_an_alarm_once(hub: FakeHub, watched: TagObservations) -> None:
    """A deleted release is one alarm; its return with the same digest is none, with another digest it is one."""
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
    """A tag that never existed, probably mistyped, is not recorded."""
    typo = Reference.parse("node:16.31.1")
    found = await look(hub, watched, typo, NODE)

    assert (found[typo].status, found[NODE].status) == (WatchStatus.ABSENT, WatchStatus.FIRST)
    assert watched.past(typo) == ()


async def test_a_registry_that_does_not_answer_hides_no_other_registry(hub: FakeHub, watched: TagObservations) -> None:
    """Tags of a silent registry could not be checked after fewer requests than tags; nothing about them is recorded."""
    dead = [Reference.parse(f"127.0.0.1:1/shop/app:1.0.{n}") for n in range(50)]
    await look(hub, watched, NODE)
    notified: list[OutgoingEvent] = []
    transport = Transport(CredentialStore([]))
    try:
        async with aclosing(look_at(transport, watched, dead, lambda: 1, notified.extend)) as looks:
            found = [each async for each in looks]
    finally:
        await transport.aclose()

    assert {each.status for each in found} == {WatchStatus.UNKNOWN}
    assert len(found) == 50
    assert sum("not asked again" in each.error.message for each in found if each.error) >= 50 - SILENCES - 16
    assert [type(each.event) for each in notified] == [UpstreamDown]
    assert (await look(hub, watched, NODE))[NODE].status is WatchStatus.SAME


async def test_a_registry_that_is_asked_too_often_is_left_alone(hub: FakeHub, watched: TagObservations) -> None:
    """A registry that answers 429 could not be checked, and other registries still are."""
    other = Reference.parse("registry.test/library/node:16.13.1")
    hub.failures = [Response(status_code=429, headers={"retry-after": "3600"})]
    found = await look(hub, watched, NODE, LATEST)
    good = await look(hub, watched, other)

    assert {each.status for each in found.values()} == {WatchStatus.UNKNOWN}
    assert good[other].status is WatchStatus.FIRST


async def test_a_nearly_used_up_pull_limit_is_reported(hub: FakeHub, watched: TagObservations) -> None:
    """When the pull limit is nearly used up, a notice states the rest from the answers' headers."""
    notified: list[Event] = []
    hub.quota = 10
    await look(hub, watched, NODE, notified=notified)

    assert notified == [QuotaLow("docker.io", 10, 100, 21600)]


async def test_a_failed_notification_is_sent_by_the_next_run(hub: FakeHub, watched: TagObservations) -> None:
    """A move and its pending notifications are one transaction, so the next run sends what failed."""

    def full(_: Sequence[OutgoingEvent]) -> None:
        raise StateUnusable("full")

    await look(hub, watched, NODE)
    publish(hub, NODE, content="two")
    transport = Transport(CredentialStore([]), app=hub.transport())
    with pytest.raises(StateUnusable, match="full"):
        async with aclosing(look_at(transport, watched, [NODE], lambda: 1, full)) as looks:
            _ = [each async for each in looks]
    await transport.aclose()
    notified: list[Event] = []
    await look(hub, watched, NODE, notified=notified)

    assert len(notified) == 1


def many(number: int, repository: str = "team/app") -> list[Reference]:
    return [Reference.parse(f"{repository}:1.0.{n}") for n in range(number)]


async def test_docker_hubs_list_saves_requests_where_it_can(hub: FakeHub, watched: TagObservations) -> None:
    """Docker Hub's list returns a hundred tags per request; only those that differ are confirmed by HEAD."""
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
    """A list older than the last observation of a tag causes no alarm."""
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
    """For two tags, or a registry without such a list, HEAD requests are used."""
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
    """An unreadable list costs one request; then HEAD requests are used."""
    tags = many(5)
    publish(hub, *tags)
    await look(hub, watched, *tags)
    hub.lists, hub.broken_list = True, body
    found = await look(hub, watched, *tags)

    assert {each.status for each in found.values()} == {WatchStatus.SAME}
    assert (hub.counted["list"], hub.counted["HEAD manifest"]) == (1, 5)


@pytest.mark.slow
async def test_looks_gather_nothing(hub: FakeHub, watched: TagObservations) -> None:
    """Memory after many rounds equals that after the second round."""
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
