"""Former images are known by the layer chains that a boltseal registry keeps, and nothing is fetched from upstreams for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from boltseal.server.app import Application
from boltseal.server.store_factory import now_us
from tests.fakes.upstream import FakeUpstream
from tests.images import Document, index, push
from tests.polling import until_answer
from tests.project.bases.layered import layered
from tests.project.bases.own_registry import HOST, OwnRegistry, own_registry
from tests.project.bases.published import NOW_US
from tests.server.mirror.mirrors import NAME, mirroring
from tests.serving import Clock

WAS, NOW = layered("or"), layered("os")
APP = layered("orX", created="2026-11-24T00:00:00Z")
RUNTIME = f"{HOST}/{NAME}/base/rt:1"


@pytest.fixture
async def mirror(data: Path, tmp_path: Path) -> AsyncIterator[tuple[FakeUpstream, OwnRegistry]]:
    """A mirror, and its upstream with a base that the mirror has resolved once and never fetched; and an app on it."""
    clock = Clock(now_us())
    async with FakeUpstream().listening() as upstream, mirroring(data, upstream, clock=clock) as registry:
        upstream.publish("base/rt", "1", WAS)
        await registry.client.head(f"/v2/{NAME}/base/rt/manifests/1")
        clock.advance(hours=1)
        await push(registry.client, "shop/app", "1", APP)
        yield upstream, OwnRegistry(registry, tmp_path / "state", clock, entries=3)


async def pull(registry: OwnRegistry, document: Document) -> None:
    """Pull an image through the mirror, with its config."""
    for path in ("manifests/1", f"blobs/{document.config.digest}"):
        answer = await registry.serving.client.get(f"/v2/{NAME}/base/rt/{path}")

        assert answer.status_code == 200


async def test_a_former_image_that_a_mirror_never_had_is_not_fetched(mirror: tuple[FakeUpstream, OwnRegistry]) -> None:
    """What a mirrored tag resolved to before is not requested by digest, because the mirror would fetch it: it is unknown."""
    upstream, registry = mirror
    upstream.publish("base/rt", "1", NOW)
    await pull(registry, NOW)
    answers = await registry.look(RUNTIME, f"{HOST}/shop/app:1")

    assert upstream.counted[f"GET /v2/base/rt/manifests/{WAS.digest}"] == 0
    assert str(answers[1].verdict.status) == "cannot tell"


async def test_a_former_image_that_a_mirror_served_is_a_base(mirror: tuple[FakeUpstream, OwnRegistry]) -> None:
    """An image on a base that a mirror served once is outdated when upstream's tag moves, without a pull at upstream."""
    upstream, registry = mirror
    await pull(registry, WAS)
    store = cast("Application", registry.serving.app)._store
    assert store is not None
    await until_answer(lambda: store.registry.layer_chains.find_pending(0), "the config is stored")
    upstream.publish("base/rt", "1", NOW)
    await pull(registry, NOW)
    fetched = upstream.gets("/manifests/")
    answers = await registry.look(RUNTIME, f"{HOST}/shop/app:1")
    verdict = answers[1].verdict

    assert upstream.gets("/manifests/") == fetched
    assert (str(verdict.status), str(verdict.built_on)) == ("outdated", WAS.digest)


async def test_a_deleted_base_of_several_platforms_is_found(tmp_path: Path) -> None:
    """An image is outdated by the kept layer chain of its platform in a base's index that was deleted with its images."""
    base, app = f"{HOST}/base/rt:1", f"{HOST}/shop/app:1"
    async with own_registry(tmp_path, NOW_US) as registry:
        client = registry.serving.client
        both = index(WAS, layered("q"))
        for repository, document in (("base/rt", both), ("shop/app", APP), ("base/rt", index(NOW, layered("p")))):
            await push(client, repository, "1", document)
        for digest in (both.digest, WAS.digest):
            await client.delete(f"/v2/base/rt/manifests/{digest}")
        registry.entries = 5
        answers = await registry.look(base, app)
        verdict = answers[1].verdict

    assert (str(verdict.status), verdict.reason) == ("outdated", "the base has other layers")
    assert verdict.changes is None
