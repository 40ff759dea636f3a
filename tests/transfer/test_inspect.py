"""`boltseal inspect`: the description of an image."""

from __future__ import annotations

import httpx2
import pytest

from boltseal.transfer.inspect import inspect
from boltseal.transfer.protocols import LocationNotFound
from tests.images import artifact, image, index, push, signature, signature_tag
from tests.serving import Serving
from tests.transfer.registries import SHOP, Network, repository

HERE = "localhost:5000"
BASE = {
    "org.opencontainers.image.base.name": "docker.io/library/node:20",
    "org.opencontainers.image.base.digest": "sha256:1",
}


async def test_an_image_is_described_with_its_referrers(registry: Serving, client: httpx2.AsyncClient) -> None:
    """Layers, base, referrers and signatures of an image are shown without fetching a layer."""
    app = image("app", layer_count=2, annotations=BASE)
    sbom = artifact("sbom", subject=app)
    await push(client, SHOP, "1.4.2", app)
    await push(client, SHOP, sbom.digest, sbom)
    await push(client, SHOP, signature_tag(app), signature(app, "shop/app"))
    network = Network({HERE: registry.app})
    place = repository(network, HERE)
    found = await inspect(place, await place.resolve("1.4.2"), None)

    assert str(found.digest) == app.digest
    assert found.base == ("docker.io/library/node:20", "sha256:1")
    assert [str(each.digest) for each in found.referrers] == [sbom.digest]
    assert list(found.signatures) == [signature_tag(app)]
    assert network.asked["GET blobs"] == 1


async def test_of_an_index_one_platform_is_shown(registry: Serving, client: httpx2.AsyncClient) -> None:
    """Of an index linux/amd64 or the requested platform is shown; for a missing one the error lists those that exist."""
    arm64, amd64 = image("arm64", architecture="arm64"), image("amd64")
    await push(client, SHOP, "1.4.2", index(amd64, arm64))
    place = repository(Network({HERE: registry.app}), HERE)
    default = await inspect(place, await place.resolve("1.4.2"), None)
    asked = await inspect(place, await place.resolve("1.4.2"), "linux/arm64")

    assert (default.chosen, list(default.platforms)) == ("linux/amd64", ["linux/amd64", "linux/arm64"])
    assert asked.config is not None
    assert asked.config.platform.architecture == "arm64"
    with pytest.raises(LocationNotFound, match="it has linux/amd64, linux/arm64"):
        await inspect(place, await place.resolve("1.4.2"), "windows/amd64")
