"""`boltseal copy`: what is copied, what is not, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.client.errors import RemoteDenied, RemoteRefused
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.transfer.copy import Copier
from boltseal.transfer.protocols import ContentDamaged, LocationNotFound, TagTaken
from boltseal.transfer.remote import RepositoryLocation
from tests.images import Document, artifact, holds_blob, image, index, meaning, push, signature, signature_tag
from tests.polling import until_signed
from tests.serving import Rule, Serving, copy_of, serving
from tests.signatures.signed_documents import signed
from tests.signatures.signers import Signer
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

    assert len(copied.attached) == 3
    assert not copied.not_carried
    assert await meaning(other.client, SHOP, of_sbom.digest) == of_sbom.digest
    assert await meaning(other.client, SHOP, signature_tag(app)) == signed.digest
    listed = (await other.client.get(f"/v2/{SHOP}/referrers/{app.digest}")).json()["manifests"]
    assert [entry["digest"] for entry in listed] == [sbom.digest]


def carrying(network: Network, *, force: bool = False) -> Copier:
    """Return a copier that carries along what is attached to an image."""
    target = repository(network, THERE)
    return Copier(repository(network, HERE), target, force=force, referrers=True, readable_target=target)


async def test_an_image_arrives_signed_before_it_gets_its_tag(
    registry: Serving, client: httpx2.AsyncClient, fresh_data: Path, tmp_path: Path
) -> None:
    """A registry that gives tags to signed images only accepts the copy of a signed image, and refuses that of an unsigned one."""
    release = Signer.on_p256()
    (tmp_path / "release.pub").write_bytes(release.pem)
    rules: list[Rule] = [{"tag": "[0-9]*", "require": [{"key": str(tmp_path / "release.pub")}]}]
    app, unsigned = index(image("amd64"), image("arm64", architecture="arm64")), image("unsigned")
    await push(client, SHOP, "1.4.2", app)
    await push(client, SHOP, signature_tag(app), signed(app, release))
    await push(client, SHOP, "1.4.3", unsigned)
    async with serving(copy_of(fresh_data, tmp_path / "strict"), rules) as strict:
        both = Network({HERE: registry.app, THERE: strict.app})
        copied = await carrying(both).image("1.4.2", "1.4.2")
        with pytest.raises(RemoteRefused, match="only to signed images"):
            await carrying(both).image("1.4.3", "1.4.3")
        there = await meaning(strict.client, SHOP, "1.4.2")
        absent = await meaning(strict.client, SHOP, "1.4.3")

    assert [each.name for each in copied.attached] == [signature_tag(app)]
    assert (there, absent) == (app.digest, None)


async def test_what_was_attached_after_the_first_copy_is_carried_by_the_next(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """A tag that has the image already gets its new referrers; a third copy sends nothing."""
    app = image("app")
    sbom = artifact("sbom", subject=app)
    await push(client, SHOP, "1.4.2", app)
    await carrying(network).image("1.4.2", "1.4.2")
    await push(client, SHOP, sbom.digest, sbom)
    second = await carrying(network).image("1.4.2", "1.4.2")
    network.asked.clear()
    third = await carrying(network).image("1.4.2", "1.4.2")

    assert (second.changed, third.changed) == (False, False)
    assert [str(each.digest) for each in second.attached] == [sbom.digest]
    assert third.attached == second.attached
    assert await meaning(other.client, SHOP, sbom.digest) == sbom.digest
    assert not any(name.startswith(("PUT", "POST")) for name in network.asked)


async def test_the_signatures_of_the_target_are_not_lost(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """Where the target's signature tag has a signature that the source has not, nothing replaces it, and the result says so."""
    app = image("app")
    await push(client, SHOP, "1.4.2", app)
    await push(client, SHOP, signature_tag(app), signature(app, "shop/app"))
    await push(other.client, SHOP, signature_tag(app), signature(app, "other/app"))
    copied = await carrying(network).image("1.4.2", "1.4.2")
    [missing] = copied.not_carried

    assert (missing.name, copied.attached) == (signature_tag(app), ())
    assert "has signatures that the source has not" in missing.error.message
    assert await meaning(other.client, SHOP, signature_tag(app)) == signature(app, "other/app").digest
    assert await meaning(other.client, SHOP, "1.4.2") == app.digest


@pytest.mark.parametrize("more_at", ["source", "target"])
async def test_signature_tags_that_extend_each_other_agree(
    network: Network, client: httpx2.AsyncClient, other: Serving, more_at: str
) -> None:
    """The side with more signatures wins: the source's are added, and the target's stay."""
    app = image("app")
    few, many = signature(app, "shop/app"), signature(app, "shop/app", "also/app")
    here, there = (many, few) if more_at == "source" else (few, many)
    await push(client, SHOP, "1.4.2", app)
    await push(client, SHOP, signature_tag(app), here)
    await push(other.client, SHOP, signature_tag(app), there)
    copied = await carrying(network).image("1.4.2", "1.4.2")

    assert not copied.not_carried
    assert await meaning(other.client, SHOP, signature_tag(app)) == many.digest


async def test_a_referrer_that_names_another_image_is_not_carried(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """A list that calls a manifest a referrer does not make it one: at the target no registry would find it."""
    app, stray = image("app"), artifact("stray")
    await push(client, SHOP, "1.4.2", app)
    await push(client, SHOP, stray.digest, stray)
    listing = Misleading(repository(network, HERE), app, stray)
    target = repository(network, THERE)
    copied = await Copier(listing, target, referrers=True, readable_target=target).image("1.4.2", "1.4.2")
    [missing] = copied.not_carried

    assert missing.name == stray.digest
    assert "it has no subject" in missing.error.message
    assert await meaning(other.client, SHOP, stray.digest) is None
    assert await meaning(other.client, SHOP, "1.4.2") == app.digest


async def test_a_list_that_cannot_be_read_is_in_the_result(
    network: Network, client: httpx2.AsyncClient, other: Serving
) -> None:
    """If the source does not list referrers, the image is copied, and the result says for which image it is unknown."""
    app = image("app")
    await push(client, SHOP, "1.4.2", app)
    target = repository(network, THERE)
    listing = Misleading(repository(network, HERE), app, None)
    copied = await Copier(listing, target, referrers=True, readable_target=target).image("1.4.2", "1.4.2")
    [missing] = copied.not_carried

    assert missing.name == f"what is attached to {app.digest}"
    assert await meaning(other.client, SHOP, "1.4.2") == app.digest


class Misleading(RepositoryLocation):
    """A registry that lists a manifest as a referrer of an image, whatever its subject is; without one it denies the list."""

    def __init__(self, true: RepositoryLocation, subject: Document, listed: Document | None) -> None:
        self.__dict__.update(true.__dict__)
        self._subject, self._listed = Digest.parse(subject.digest), listed

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the one entry for the image, and nothing for others."""
        if self._listed is None:
            raise RemoteDenied("the registry denies the list")
        entry = Descriptor(self._listed.media_type, Digest.parse(self._listed.digest), len(self._listed.raw))
        return (entry,) if digest == self._subject else ()


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
