"""The counted requests of lock and verify: a HEAD per reference, one token, and no pull on Docker Hub."""

from __future__ import annotations

import pytest

from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock
from boltseal.project.image_references import ImageReference
from boltseal.project.lock import relock
from boltseal.project.verify import VerifyResult, verify
from tests.fakes.hub import FakeHub
from tests.lockfile.locks import NOW_US
from tests.project.image_ref_samples import REGISTRY, image_ref, publish, resolving, two_platforms

pytestmark = pytest.mark.usefixtures("one_attempt")

MANY = 200


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


def filled(hub: FakeHub, registry: str) -> list[ImageReference]:
    """Return two hundred repositories, each named in five files."""
    for number in range(MANY):
        publish(hub, f"team/app{number}:1.0.0", two_platforms(str(number)))
    return [
        image_ref(f"{registry}/team/app{number}:1.0.0", path=f"{file}/compose.yaml")
        for number in range(MANY)
        for file in range(5)
    ]


async def locked(hub: FakeHub, image_refs: list[ImageReference], old: Lock) -> Lock:
    """Lock in one command run with its own connections and tokens."""
    async with resolving(hub) as resolver:
        done = await relock(image_refs, old, resolver, update=lambda _: False, now_us=NOW_US)

    assert not done.unresolved
    return done.lock


async def verified(hub: FakeHub, image_refs: list[ImageReference], lock: Lock) -> tuple[VerifyResult, ...]:
    async with resolving(hub) as resolver:
        return await verify(image_refs, lock, resolver, now_us=NOW_US)


@pytest.mark.slow
async def test_a_thousand_uses_of_two_hundred_images_cost_one_token_and_a_head_each(hub: FakeHub) -> None:
    """A thousand uses of two hundred images cost one token and a HEAD each; the first lock also reads platforms."""
    image_refs = filled(hub, REGISTRY)
    lock = await locked(hub, image_refs, Lock())
    first = hub.counted.copy()
    hub.counted.clear()
    again = await locked(hub, image_refs, lock)
    second = hub.counted.copy()
    hub.counted.clear()
    verdicts = await verified(hub, image_refs, lock)

    assert first == {"token": 1, "HEAD manifest": MANY, "GET manifest": 3 * MANY}
    assert second == {"token": 1, "HEAD manifest": MANY}
    assert hub.counted == {"token": 1, "HEAD manifest": MANY}
    assert again == lock
    assert {verdict.weight for verdict in verdicts} == {Weight.NOTE}


@pytest.mark.slow
async def test_tags_that_all_moved_cost_no_further_token(hub: FakeHub) -> None:
    """For moved tags, histories use the existing token, and changed platforms cost one index each."""
    image_refs = filled(hub, REGISTRY)
    lock = await locked(hub, image_refs, Lock())
    for number in range(MANY):
        publish(hub, f"team/app{number}:1.0.0", two_platforms(f"newer {number}"))
    hub.counted.clear()
    verdicts = await verified(hub, image_refs, lock)

    assert {verdict.weight for verdict in verdicts} == {Weight.DIFFERS}
    assert hub.counted == {"token": 1, "HEAD manifest": MANY, "history": MANY, "GET manifest": MANY}


async def test_on_docker_hub_nothing_is_counted_as_a_pull(hub: FakeHub) -> None:
    """On Docker Hub, only HEADs are sent, whatever moved, since a manifest GET counts as a pull."""
    image_refs = filled(hub, "docker.io")
    lock = await locked(hub, image_refs, Lock())
    publish(hub, "team/app7:1.0.0", two_platforms("newer"))
    await verified(hub, image_refs, lock)
    await locked(hub, image_refs, lock)

    assert hub.counted["GET manifest"] == hub.counted["GET blob"] == 0
    assert hub.counted["token"] == 3
    assert hub.counted["HEAD manifest"] == 3 * MANY
    assert all(not image.platforms for image in lock.images)
