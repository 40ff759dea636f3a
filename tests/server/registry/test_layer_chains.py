"""The registry keeps the layer chain of every image that was pushed, also after the image was deleted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import cast

import httpx2
import pytest

from boltseal.oci.layer_chain import ChainDocument, encode_chain, parse_chain
from boltseal.server.app import Application
from boltseal.server.registry.layer_chains import LayerChains
from boltseal.server.storage.metadata import layer_chain_table
from boltseal.server.store_factory import open_metadata
from tests.fakes.upstream import FakeUpstream
from tests.images import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    index,
    push,
    push_blob,
    push_parts,
    put,
    to_json,
)
from tests.polling import until_answer, wait_until
from tests.project.bases.layered import layered
from tests.server.mirror.mirrors import NAME, mirroring
from tests.servers import Server, boltseal
from tests.serving import Serving, serving, settings_of
from tests.storage_choice import change_rows

IMAGES = 600
BASE = layered("ab")
CHAINS = "/v2/base/rt/_boltseal/chains"


async def chains_of(
    client: httpx2.AsyncClient, *documents: Document, repository: str = "base/rt"
) -> dict[str, ChainDocument]:
    """Return the layer chains that a repository has of manifests, by digest."""
    asked = ",".join(each.digest for each in documents)
    answer = await client.get(f"/v2/{repository}/_boltseal/chains?digests={asked}")

    assert answer.status_code == 200
    return {digest: parse_chain(json.dumps(each)) for digest, each in answer.json()["chains"].items()}


async def pending(client: httpx2.AsyncClient) -> float:
    """Return the number of pending layer chains, as the metrics have it."""
    return number_of((await client.get("/metrics")).text)


async def test_a_chain_is_stored_at_the_push_and_kept_after_the_delete(data: Path) -> None:
    """The layers of an image are known from its push on, and still after its tag and manifest were deleted."""
    async with serving(data) as registry:
        await push(registry.client, "base/rt", "latest", BASE)
        stored = await chains_of(registry.client, BASE)
        gone = await registry.client.delete(f"/v2/base/rt/manifests/{BASE.digest}")
        kept = await chains_of(registry.client, BASE)
        again = await push(registry.client, "base/rt", "latest", BASE)
    found = stored[BASE.digest].image

    assert (gone.status_code, again.status_code) == (202, 201)
    assert stored == kept
    assert found is not None
    assert (found.layers, found.steps, found.config, found.architecture) == (2, 2, BASE.config.digest, "amd64")


async def test_an_index_has_its_images(data: Path) -> None:
    """The chains of an index are those of its images, and are kept after both were deleted."""
    async with serving(data) as registry:
        both = index(BASE, layered("cd"))
        await push(registry.client, "base/rt", "latest", both)
        await registry.client.delete(f"/v2/base/rt/manifests/{both.digest}")
        await registry.client.delete(f"/v2/base/rt/manifests/{BASE.digest}")
        found = await chains_of(registry.client, both)

    assert [each.digest for each in found[both.digest].images or ()] == [BASE.digest, layered("cd").digest]
    assert found[BASE.digest].image is not None
    assert len(found) == 3


async def test_other_artifacts_have_no_layers_to_build_on(data: Path) -> None:
    """An SBOM is known to be no image; an image whose config can't be read is unknown, and not pending."""
    sbom = artifact("sbom")
    unreadable = Blob(b"no json", OCI_CONFIG)
    was, now = (to_json(each.descriptor()) for each in (BASE.config, unreadable))
    odd = Document(BASE.raw.replace(was, now), OCI_MANIFEST, (unreadable, *BASE.layers))
    async with serving(data) as registry:
        await push(registry.client, "base/rt", "sbom", sbom)
        await push(registry.client, "base/rt", "odd", odd)
        found, waiting = await chains_of(registry.client, sbom, odd), await pending(registry.client)

    assert found[sbom.digest] == ChainDocument(version=1)
    assert found[odd.digest].image is None
    assert "can't be read" in found[odd.digest].unreadable
    assert waiting == 0


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"rootfs": {"diff_ids": [BASE.digest] * 5000}}, False),
        ({"rootfs": {"diff_ids": [1, None]}}, False),
        ({"rootfs": {"diff_ids": ["no digest"]}}, False),
        ({"os": "x" * 1_000_000}, False),
        ({"history": [{"created_by": "x"}] * 5000}, False),
        ({"config": {"Env": ["A=1"] * 5000}}, False),
        ({"rootfs": {"diff_ids": [BASE.digest] * 5}}, True),
        ({"created": "x" * 1_000_000}, True),
        ({"rootfs": None, "history": None, "config": None}, True),
    ],
    ids=["5000 layers", "no texts", "no digests", "platform", "history", "settings", "more layers", "time", "nothing"],
)
async def test_a_hostile_config_is_stored_and_its_chain_is_small(data: Path, change: object, known: bool) -> None:
    """A push with an absurd config succeeds as before; its chain is constant in size, or the reason why there is none."""
    assert isinstance(change, dict)
    config = Blob(to_json(json.loads(BASE.config.data) | change), OCI_CONFIG)
    was, now = (to_json(each.descriptor()) for each in (BASE.config, config))
    image = Document(BASE.raw.replace(was, now), OCI_MANIFEST, (config, *BASE.layers))
    async with serving(data) as registry:
        pushed = await push(registry.client, "base/rt", "latest", image)
        found = (await chains_of(registry.client, image))[image.digest]

    assert pushed.status_code == 201
    assert (found.image is not None, bool(found.unreadable)) == (known, not known)
    assert len(encode_chain(found)) < 2000


async def test_an_index_with_absurd_platforms_has_no_chain(data: Path) -> None:
    """An index whose platforms are long texts is stored, and the answer for its chain has the reason in place of them."""
    platform = {"os": "x" * 100_000, "architecture": "amd64"}
    odd = index(BASE, manifests=[BASE.descriptor(platform=platform)])
    async with serving(data) as registry:
        pushed = await push(registry.client, "base/rt", "latest", odd)
        found = (await chains_of(registry.client, odd))[odd.digest]

    assert pushed.status_code == 201
    assert "platform of" in found.unreadable


async def test_a_chain_is_found_out_when_the_config_has_arrived(data: Path) -> None:
    """An image that was pushed before its config is pending, as the metrics show, until its config is stored."""
    async with serving(data, [{"repository": "**", "tag": "*", "mode": "floating"}]) as registry:
        early = await put(registry.client, "base/rt", "latest", BASE)
        before, waiting = await chains_of(registry.client, BASE), await pending(registry.client)
        await push_blob(registry.client, "base/rt", BASE.config)
        stored = await chains_in(registry).find_pending(0)
        after, rest = await chains_of(registry.client, BASE), await pending(registry.client)

    assert early.status_code == 201
    assert (before, waiting) == ({}, 1)
    assert (stored, [*after], rest) == (1, [BASE.digest], 0)


async def test_two_processes_find_out_the_same_chains(data: Path) -> None:
    """Two processes that find out pending chains at once store what a push would have stored, and leave none pending."""
    async with serving(data, [{"repository": "**", "tag": "*", "mode": "floating"}]) as registry:
        images = [layered(f"a{letter}") for letter in "bcdefg"]
        for image in images:
            await push(registry.client, "base/rt", "latest", image)
        pushed = await chains_of(registry.client, *images)
        forgotten = forget_chains(data)
        store = chains_in(registry)
        await asyncio.gather(store.find_pending(0), store.find_pending(0))

        assert forgotten == len(images)
        assert await chains_of(registry.client, *images) == pushed
        assert await pending(registry.client) == 0


async def test_a_repository_does_not_show_the_chains_of_another(data: Path) -> None:
    """The chain of an image is found in the repositories that have or had it only."""
    async with serving(data) as registry:
        await push(registry.client, "base/rt", "latest", BASE)
        await push(registry.client, "base/os", "latest", layered("q"))

        assert await chains_of(registry.client, BASE, repository="base/os") == {}
        assert await chains_of(registry.client, BASE, repository="base/none") == {}


@pytest.mark.parametrize("digests", ["", "digests=", "digests=x", f"digests={','.join([BASE.digest] * 51)}"])
async def test_an_invalid_list_of_digests_is_refused(data: Path, digests: str) -> None:
    """A request for chains names 1 to 50 digests."""
    async with serving(data) as registry:
        answer = await registry.client.get(f"{CHAINS}?{digests}")

    assert answer.status_code == 400


async def test_a_mirrored_image_is_known_when_its_config_was_pulled(data: Path) -> None:
    """A mirror keeps the chain of what it served, also after upstream's tag moved, and fetches nothing for it."""
    async with FakeUpstream().listening() as upstream, mirroring(data, upstream) as registry:
        name = f"{NAME}/team/app"
        upstream.publish("team/app", "latest", BASE)
        await registry.client.get(f"/v2/{name}/manifests/latest")
        unknown = await chains_of(registry.client, BASE, repository=name)
        await chains_in(registry).find_pending(0)
        fetched = upstream.gets("/")
        await registry.client.get(f"/v2/{name}/blobs/{BASE.config.digest}")
        await until_answer(lambda: chains_in(registry).find_pending(0), "the config is stored")
        known = await chains_of(registry.client, BASE, repository=name)

        assert unknown == {}
        assert known[BASE.digest].image is not None
        assert upstream.gets("/") == fetched + 1


def forget_chains(data: Path) -> int:
    """Make all chains pending, as the migration does; return their number."""
    return change_rows(data, "UPDATE layer_chain SET document = NULL")


@pytest.mark.slow
def test_a_killed_server_continues_with_pending_chains(data: Path) -> None:
    """A server that is killed while it finds out the chains of an older store continues where it was, and ends."""

    async def fill() -> None:
        async with serving(data, [{"repository": "**", "tag": "*", "mode": "floating"}]) as registry:
            await push_parts(registry.client, "base/rt", BASE)
            for number in range(IMAGES):
                body = json.loads(BASE.raw) | {"annotations": {"number": str(number)}}
                await put(registry.client, "base/rt", "latest", Document(to_json(body), OCI_MANIFEST))

    asyncio.run(fill())
    left = [forget_chains(data)]
    for enough in (left[0] - 1, left[0] // 2, 0):
        with boltseal(data) as server:
            wait_until(partial(is_at_most, server, enough), f"at most {enough} chains are pending")
            os.killpg(server.pid, signal.SIGKILL)
        with open_metadata(settings_of(data)) as database:
            left.append(database.read_and_wait(layer_chain_table.count_pending))

    assert left[0] == IMAGES
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def is_at_most(server: Server, number: int) -> bool:
    """Return whether a running server has at most so many pending layer chains."""
    return number_of(httpx2.get(f"{server.url}/metrics", trust_env=False).text) <= number


def number_of(metrics: str) -> float:
    """Return the number of pending layer chains in the text of the metrics."""
    name = "boltseal_layer_chains_pending "
    return next(float(line.removeprefix(name)) for line in metrics.splitlines() if line.startswith(name))


def chains_in(registry: Serving) -> LayerChains:
    """Return the part of a running registry that finds out pending chains."""
    store = cast("Application", registry.app)._store
    assert store is not None
    return store.registry.layer_chains
