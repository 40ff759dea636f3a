"""`boltseal copy`: what is copied, what is not, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.client.errors import RemoteRefused
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.transfer.copy import Copier
from boltseal.transfer.protocols import ContentDamaged, LocationNotFound, TagTaken
from tests.images import artifact, holds_blob, image, index, meaning, push, signature, signature_tag
from tests.polling import until_signed
from tests.serving import Serving, copy_of, serving
from tests.transfer.registries import SHOP, Network, layout, repository

pytestmark = pytest.mark.usefixtures("three_attempts")

HERE, THERE = "localhost:5000", "127.0.0.1:5000"
STAGING = Repository("staging/app")


@pytest.fixture
async def other(fresh_data: Path, tmp_path: Path) -> AsyncIterator[Serving]:
    """Another registry."""
    data = copy_of(fresh_data, tmp_path / "other")
    async with serving(data) as running:
        yield running


@pytest.fixture
def network(registry: Serving, other: Serving) -> Network:
    """Two registries."""
    return Network({HERE: registry.app, THERE: other.app})


async def test_an_index_is_copied_with_all_its_platforms(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """An index is copied with every platform, config and layer, and keeps its digest."""
    both = index(image("amd64", layer_count=2), image("arm64", architecture="arm64"))
    await push(client, SHOP, "1.4.2", both)
    copier = Copier(repository(network, HERE), repository(network, THERE))
    copied = await copier.image("1.4.2", "1.4.2")

    assert (copied.digest, copied.changed) == (Digest.parse(both.digest), True)
    assert await meaning(other.client, SHOP, "1.4.2") == both.digest
    assert (copier.counts.sent, copier.counts.manifests) == (5, 3)


async def test_a_copy_within_a_repository_moves_no_bytes(network: Network, client: httpx2.AsyncClient) -> None:
    """A copy within a repository reads and writes one manifest and no blob."""
    built = image("app", layer_count=3)
    await push(client, SHOP, "build-123", built)
    place = repository(network, HERE)
    copied = await Copier(place, place, within=True).image("build-123", "1.4.2")

    assert copied.changed
    assert await meaning(client, SHOP, "1.4.2") == built.digest
    assert {name: count for name, count in network.asked.items() if not name.endswith("other")} == {
        "HEAD manifests": 2,
        "GET manifests": 1,
        "PUT manifests": 1,
    }


async def test_between_repositories_of_one_registry_blobs_are_mounted(
    network: Network, client: httpx2.AsyncClient
) -> None:
    """Between repositories of one registry blobs are mounted, and only manifests are transferred."""
    built = image("app", layer_count=3)
    await push(client, STAGING, "build-123", built)
    copier = Copier(repository(network, HERE, STAGING), repository(network, HERE, SHOP, STAGING))
    await copier.image("build-123", "1.4.2")

    assert await meaning(client, SHOP, "1.4.2") == built.digest
    assert (copier.counts.mounted, copier.counts.sent) == (4, 0)
    assert network.bytes_in == 0
    assert network.asked["GET blobs"] == 0


async def test_a_second_copy_does_nothing(network: Network, client: httpx2.AsyncClient) -> None:
    """If the tag already resolves to the image, a copy costs two HEAD requests."""
    await push(client, SHOP, "1.4.2", image("app"))
    await Copier(repository(network, HERE), repository(network, THERE)).image("1.4.2", "1.4.2")
    network.asked.clear()
    copied = await Copier(repository(network, HERE), repository(network, THERE)).image("1.4.2", "1.4.2")

    assert not copied.changed
    assert network.asked["HEAD manifests"] == 2
    assert not any(network.asked[f"{method} manifests"] for method in ("GET", "PUT"))


async def test_a_tag_that_resolves_to_another_image_is_not_overwritten(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """A tag on another image is refused before any transfer; with --force a mutable one moves, and a sealed one is
    refused."""
    mine, theirs = image("mine"), image("theirs")
    for tag in ("1.4.2", "latest"):
        await push(client, SHOP, tag, mine)
        await push(other.client, SHOP, tag, theirs)
    with pytest.raises(TagTaken, match="--force"):
        await Copier(repository(network, HERE), repository(network, THERE)).image("latest", "latest")
    forced = Copier(repository(network, HERE), repository(network, THERE), force=True)
    await forced.image("latest", "latest")
    with pytest.raises(RemoteRefused, match="sealed"):
        await forced.image("1.4.2", "1.4.2")

    assert await meaning(other.client, SHOP, "latest") == mine.digest
    assert await meaning(other.client, SHOP, "1.4.2") == theirs.digest


@pytest.mark.files_only("changes rows of SQLite")
@pytest.mark.parametrize("tag", ["1.4.2", "latest"])
async def test_the_missing_image_of_a_recovered_tag_is_copied_without_moving_the_tag(
    network: Network, client: httpx2.AsyncClient, other: Serving, tag: str
) -> None:
    """After a restore a tag may lack its manifest: the copy of that image brings it back, that of another image is refused."""
    lost, wrong = index(image("amd64"), image("arm64", architecture="arm64")), image("wrong")
    await push(client, SHOP, tag, lost)
    await push(client, SHOP, "1.4.3", wrong)
    await push(other.client, SHOP, tag, lost)
    forget_manifest(other.data, lost.digest)
    found_without = await meaning(other.client, SHOP, tag)
    [reason] = (await other.client.get(f"/v2/{SHOP}/manifests/{tag}")).json()["errors"]
    with pytest.raises(RemoteRefused, match=f"exists \\({lost.digest}\\)"):
        await Copier(repository(network, HERE), repository(network, THERE)).image("1.4.3", tag)
    found_refused = await meaning(other.client, SHOP, tag)
    copied = await Copier(repository(network, HERE), repository(network, THERE)).image(tag, tag)

    assert (found_without, found_refused) == (None, None)
    assert reason["message"].endswith(
        f"resolves to {lost.digest}, and that manifest is missing here; push that image again"
    )
    assert copied.changed
    assert await meaning(other.client, SHOP, tag) == lost.digest
    await until_signed(other.client, 3)
    assert len((await other.client.get(f"/v2/{SHOP}/_oci/tag-history/{tag}")).json()["manifests"]) == 1


def forget_manifest(data: Path, digest: str) -> None:
    """Delete the row of a manifest and keep its tags, as a recovered ledger leaves them."""
    with closing(sqlite3.connect(data / DATABASE_NAME)) as database:
        database.execute("DELETE FROM link WHERE parent = ?", (digest,))
        database.execute("DELETE FROM manifest WHERE digest = ?", (digest,))
        database.commit()


@pytest.mark.parametrize("failure", ["broken", "lost"])
async def test_a_broken_push_is_repeated(
    network: Network, client: httpx2.AsyncClient, other: Serving, failure: str
) -> None:
    """A push that failed, or whose answer was lost, is repeated and succeeds."""
    app = image("app", layer_count=3)
    await push(client, SHOP, "1.4.2", app)
    setattr(network, failure, 2)
    await Copier(repository(network, HERE), repository(network, THERE)).image("1.4.2", "1.4.2")

    assert await meaning(other.client, SHOP, "1.4.2") == app.digest


async def test_signatures_and_referrers_are_copied(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """Signatures and referrers, also referrers of referrers, are copied, by subject and by signature tags."""
    app = image("app")
    sbom = artifact("sbom", subject=app)
    of_sbom = artifact("signature of the sbom", subject=sbom)
    signed = signature(app, "shop/app")
    await push(client, SHOP, "1.4.2", app)
    await push(client, SHOP, sbom.digest, sbom)
    await push(client, SHOP, of_sbom.digest, of_sbom)
    await push(client, SHOP, signature_tag(app), signed)
    copier = Copier(repository(network, HERE), repository(network, THERE), referrers=True)
    copied = await copier.image("1.4.2", "1.4.2")

    assert copied.referrers == 3
    assert await meaning(other.client, SHOP, of_sbom.digest) == of_sbom.digest
    assert await meaning(other.client, SHOP, signature_tag(app)) == signed.digest
    listed = (await other.client.get(f"/v2/{SHOP}/referrers/{app.digest}")).json()["manifests"]
    assert [entry["digest"] for entry in listed] == [sbom.digest]


async def test_a_copy_into_a_layout_and_back_keeps_the_digest(
    network: Network, client: httpx2.AsyncClient, other: Serving, tmp_path: Path
) -> None:
    """A copy into an OCI layout and back keeps the digest and every tag."""
    both = index(image("amd64"), image("arm64", architecture="arm64"))
    await push(client, SHOP, "1.4.2", both)
    await push(client, SHOP, "1.4.3", image("next"))
    into = Copier(repository(network, HERE), layout(tmp_path / "images"))
    for tag in ("1.4.2", "1.4.3"):
        await into.image(tag, tag)
    back = Copier(layout(tmp_path / "images"), repository(network, THERE))
    for name in await back.source.names():
        await back.image(name, name)

    assert await meaning(other.client, SHOP, "1.4.2") == both.digest
    assert json.loads((tmp_path / "images/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert not list((tmp_path / "images/blobs").glob(".arriving-*"))


async def test_an_interrupted_copy_into_a_layout_is_resumed(
    network: Network, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Complete blobs in a layout from an interrupted copy are not fetched again."""
    app = image("app", layer_count=4)
    await push(client, SHOP, "1.4.2", app)
    first = Copier(repository(network, HERE), layout(tmp_path))
    await first.image("1.4.2", "1.4.2")
    (tmp_path / "index.json").unlink()
    (tmp_path / "blobs/sha256" / app.layers[0].digest.partition(":")[2]).unlink()
    second = Copier(repository(network, HERE), layout(tmp_path))
    await second.image("1.4.2", "1.4.2")

    assert (second.counts.sent, second.counts.present) == (1, 4)


async def test_a_damaged_layout_is_not_pushed(
    network: Network, client: httpx2.AsyncClient, other: Serving, tmp_path: Path
) -> None:
    """A flipped byte in a layout's layer ends the copy, and the registry gets neither blob nor tag."""
    app = image("app")
    await push(client, SHOP, "1.4.2", app)
    await Copier(repository(network, HERE), layout(tmp_path)).image("1.4.2", "1.4.2")
    path = tmp_path / "blobs/sha256" / app.layers[0].digest.partition(":")[2]
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ContentDamaged, match="does not match its digest"):
        await Copier(layout(tmp_path), repository(network, THERE)).image("1.4.2", "1.4.2")

    assert await meaning(other.client, SHOP, "1.4.2") is None
    assert not await holds_blob(other.client, SHOP, app.layers[0].digest)


async def test_the_error_of_a_layout_without_the_image_lists_its_images(tmp_path: Path, network: Network) -> None:
    """If a layout lacks the image, the error lists the images that it has."""
    with pytest.raises(LocationNotFound, match="no OCI image layout"):
        await layout(tmp_path).resolve("1.4.2")
