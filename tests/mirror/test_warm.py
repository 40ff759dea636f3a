"""What is asked for again and again is answered from memory, and never after anything in the store has changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from boltseal.mirror import cache
from boltseal.opening import open_store
from boltseal.settings import Settings
from boltseal.storage.schema import foreign_tag
from tests.fakes.upstream import FakeUpstream, status
from tests.images import image
from tests.mirror.mirrors import NAME, mirror_settings, table_of
from tests.serving import Clock, Serving, serving_as

NOW_US = 1_795_500_000_000_000
TARGET = f"/v2/{NAME}/team/app/manifests/latest"


@pytest.fixture
def clock() -> Clock:
    """The mirror's clock."""
    return Clock(NOW_US)


@pytest.fixture
def settings(data: Path, upstream: FakeUpstream) -> Settings:
    """Upstream is asked every ten minutes."""
    return mirror_settings(data, table_of(upstream, fresh="10m"))


@pytest.fixture
async def warm(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    """A mirror that goes by that clock."""
    async with serving_as(settings, clock=clock) as serving:
        yield serving


async def test_in_a_window_upstream_is_asked_once(warm: Serving, upstream: FakeUpstream, clock: Clock) -> None:
    """However often and however a tag is asked for; behind the window again."""
    upstream.publish("team/app", "latest", image("first"))
    for _ in range(5):
        assert (await warm.client.get(TARGET)).status_code == 200
        assert (await warm.client.head(TARGET)).status_code == 200
    asked = len(upstream.asked)
    second = upstream.publish("team/app", "latest", image("second"))
    clock.advance(seconds=601)

    assert asked == 2
    assert (await warm.client.get(TARGET)).content == second.raw


async def test_what_another_process_changes_is_seen_at_once(
    warm: Serving, upstream: FakeUpstream, settings: Settings, clock: Clock
) -> None:
    """No answer outlives the rows that it was made of, whoever changed them."""
    first = upstream.publish("team/app", "latest", image("first"))
    second = upstream.publish("team/app", None, image("second"))
    await warm.client.get(f"/v2/{NAME}/team/app/manifests/{second.digest}")
    assert (await warm.client.get(TARGET)).content == first.raw

    def move(tx: Any) -> None:
        values = {"digest": second.digest, "size": len(second.raw), "media_type": second.media_type}
        tx.connection.execute(foreign_tag.update().values(**values))

    with open_store(settings, clock=clock) as other:
        other.database.write_and_wait(move)

    assert (await warm.client.get(TARGET)).content == second.raw


@pytest.mark.slow
async def test_an_answer_with_a_warning_is_not_kept(warm: Serving, upstream: FakeUpstream, clock: Clock) -> None:
    """As soon as upstream may be asked again, it may say otherwise."""
    upstream.publish("team/app", "latest", image("first"))
    await warm.client.get(TARGET)
    clock.advance(seconds=601)
    upstream.answers["*"] = status(500)
    assert "warning" in (await warm.client.get(TARGET)).headers
    upstream.answers.clear()
    clock.advance(seconds=601)

    assert "warning" not in (await warm.client.get(TARGET)).headers


async def test_what_is_kept_is_bounded(warm: Serving, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes, and is made out anew."""
    monkeypatch.setattr(cache, "WARM_MOST", 2)
    shown = {tag: upstream.publish("team/app", tag, image(tag)) for tag in ("a", "b", "c", "d")}
    for _ in range(2):
        for tag, document in shown.items():
            answer = await warm.client.get(f"/v2/{NAME}/team/app/manifests/{tag}")
            assert answer.content == document.raw
