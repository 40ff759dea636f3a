"""Popular tags are answered from memory, and never after anything in the store has changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.upstream_moves import UpstreamAnswer
from boltseal.policy.upstreams import MoveTerms, OnMove
from boltseal.server.auth.actor import Actor
from boltseal.server.mirror.upstream_tags import UpstreamTag, UpstreamTags
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.settings import Settings
from boltseal.server.store_factory import open_store
from tests.fakes.upstream import FakeUpstream, status
from tests.images import image, push
from tests.server.mirror.mirrors import NAME, bare_mirror, mirror_settings, table_of
from tests.serving import Clock, Serving, serving_as

NOW_US = 1_795_500_000_000_000
TARGET = f"/v2/{NAME}/team/app/manifests/latest"


@pytest.fixture
def clock() -> Clock:
    """The mirror's clock."""
    return Clock(NOW_US)


@pytest.fixture
def settings(data: Path, upstream: FakeUpstream) -> Settings:
    """Settings with which upstream is asked every ten minutes."""
    return mirror_settings(data, table_of(upstream, fresh="10m"))


@pytest.fixture
async def warm(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    """A mirror that uses that clock."""
    async with serving_as(settings, clock=clock) as serving:
        yield serving


async def test_in_a_window_upstream_is_asked_once(warm: Serving, upstream: FakeUpstream, clock: Clock) -> None:
    """Within a window upstream is asked once per tag, whatever and how often clients request."""
    upstream.publish("team/app", "latest", image("first"))
    for _ in range(5):
        assert (await warm.client.get(TARGET)).status_code == 200
        assert (await warm.client.head(TARGET)).status_code == 200
    asked = len(upstream.asked)
    second = upstream.publish("team/app", "latest", image("second"))
    clock.advance(seconds=601)

    assert asked == 2
    assert (await warm.client.get(TARGET)).content == second.raw


async def test_a_change_by_another_process_is_seen_at_once(
    warm: Serving, upstream: FakeUpstream, settings: Settings, clock: Clock
) -> None:
    """After another process changed rows, no cached answer is used."""
    first = upstream.publish("team/app", "latest", image("first"))
    second = upstream.publish("team/app", None, image("second"))
    await warm.client.get(f"/v2/{NAME}/team/app/manifests/{second.digest}")
    assert (await warm.client.get(TARGET)).content == first.raw

    upstream_answer = UpstreamAnswer(Digest.parse(second.digest), second.media_type, len(second.raw))
    with open_store(settings, clock=clock) as other:
        await other.registry.observations.note(
            Repository(f"{NAME}/team/app"),
            Tag("latest"),
            upstream_answer,
            MoveTerms(OnMove.FOLLOW),
            Actor("another worker"),
        )

    assert (await warm.client.get(TARGET)).content == second.raw


async def test_a_local_seal_overrides_upstream(data: Path, upstream: FakeUpstream, clock: Clock) -> None:
    """A tag that was pushed through the proxy and then moved upstream resolves locally once it is sealed."""
    upstream.takes = True
    settings = mirror_settings(data, table_of(upstream, fresh="10m", push=True))
    pushed = image("pushed")
    async with serving_as(settings, clock=clock) as warm:
        await push(warm.client, f"{NAME}/team/app", "latest", pushed)
        past = upstream.publish("team/app", "latest", image("past the gate"))
        clock.advance(seconds=601)
        assert (await warm.client.get(TARGET)).content == past.raw
        with open_store(settings, clock=clock) as other:
            await other.registry.seals.seal(Repository(f"{NAME}/team/app"), Tag("latest"), Actor("boss"), "it is good")

        assert (await warm.client.get(TARGET)).content == pushed.raw


async def test_an_unchanged_tag_clears_no_caches(
    warm: Serving, upstream: FakeUpstream, settings: Settings, clock: Clock
) -> None:
    """An unchanged tag, or a new one, does not clear caches."""
    upstream.publish("team/app", "latest", image("first"))
    await warm.client.get(TARGET)
    with open_store(settings, clock=clock) as other:
        before = other.registry.pulls.generation()
        clock.advance(seconds=601)
        upstream.publish("team/app", "1.0.0", image("another"))
        await warm.client.get(TARGET)
        await warm.client.get(TARGET.replace("latest", "1.0.0"))

        assert other.registry.pulls.generation() == before


@pytest.mark.slow
async def test_an_answer_with_a_warning_is_not_cached(warm: Serving, upstream: FakeUpstream, clock: Clock) -> None:
    """An answer with a warning is not cached, because upstream may soon answer."""
    upstream.publish("team/app", "latest", image("first"))
    await warm.client.get(TARGET)
    clock.advance(seconds=601)
    upstream.answers["*"] = status(500)
    assert "warning" in (await warm.client.get(TARGET)).headers
    upstream.answers.clear()
    clock.advance(seconds=601)

    assert "warning" not in (await warm.client.get(TARGET)).headers


class Asked(UpstreamTags):
    """Counts how often a tag was resolved instead of answered from the cache."""

    times = 0

    async def resolve(self, upstream: Upstream, repository: Repository, tag: Tag) -> UpstreamTag:
        self.times += 1
        return await super().resolve(upstream, repository, tag)


async def test_the_cache_is_bounded(settings: Settings, upstream: FakeUpstream, clock: Clock) -> None:
    """A full cache drops its oldest answer."""
    shown = {tag: upstream.publish("team/app", tag, image(tag)) for tag in ("a", "b", "c")}
    async with bare_mirror(settings, clock, tags=Asked, cache_limit=2) as bare:

        async def ask(tag: str) -> int:
            before = bare.tags.times
            served = await bare.mirror.by_tag(bare.upstream, Repository(f"{NAME}/team/app"), Tag(tag))
            assert served.answer.raw == shown[tag].raw
            return bare.tags.times - before

        asked = [await ask(tag) for tag in ("a", "b", "b", "a", "c", "c", "a", "b")]

    assert asked == [1, 1, 0, 0, 1, 0, 1, 1]
