"""`boltseal scrub` of Docker's classic store, which keeps no manifests: a registry has them, by their digests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.oci.digest import Digest
from tests import images
from tests.cli import program
from tests.host.scrub.made_stores import DockerStore, repository_of
from tests.host.scrub.receipts import KEY, receipt
from tests.real.sleeper import publish
from tests.servers import Server
from tests.thread_server import boltseal_in_thread


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Server]:
    with boltseal_in_thread(tmp_path / "data") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, registry: Server) -> DockerStore:
    """A store with one image, named as if it had been pulled from the registry."""
    made = DockerStore.at(tmp_path)
    made.image("shop/app:1.4.2", {"etc/passwd": b"root"})
    name_it(made, f"{registry.address}/shop/app:1.4.2")
    return made


def name_it(store: DockerStore, *names: str) -> None:
    """Give the only image of a store other names."""
    listed: dict[str, dict[str, str]] = {}
    for name in names:
        listed.setdefault(repository_of(name), {})[name] = f"sha256:{config_of(store).hex}"
    (store.root / "image/overlay2/repositories.json").write_text(json.dumps({"Repositories": listed}))


def config_of(store: DockerStore) -> Digest:
    (config,) = (store.root / "image/overlay2/imagedb/content/sha256").iterdir()
    return Digest("sha256", config.name)


def document_of(store: DockerStore) -> images.Document:
    """Return a manifest of the image in a store."""
    raw = (store.root / "image/overlay2/imagedb/content/sha256" / config_of(store).hex).read_bytes()
    config = images.Blob(raw, images.OCI_CONFIG)
    body = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [],
    }
    return images.Document(images.to_json(body), images.OCI_MANIFEST, (config,))


@pytest.mark.parametrize("as_index", [False, True], ids=["manifest", "index"])
def test_the_registry_proves_a_digest_that_the_store_can_not(
    store: DockerStore, registry: Server, *, as_index: bool
) -> None:
    """An image is proven to level L1 by a manifest that the registry sends for the expected digest."""
    document = images.index(images.image("another"), document_of(store)) if as_index else document_of(store)
    digest = publish(registry.address, "shop/app", "1.4.2", document)
    done = program.call("scrub", "--root", store.root, f"{registry.address}/shop/app@{digest}")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("holds L1: ")


def test_another_image_than_the_registry_has_differs(store: DockerStore, registry: Server) -> None:
    """An image whose ID no manifest of the expected digest refers to differs."""
    digest = publish(registry.address, "shop/app", "1.4.2", images.index(images.image("one"), images.image("two")))
    done = program.call("scrub", "--root", store.root, f"{registry.address}/shop/app@{digest}")

    assert done.code == 1
    assert "DIFFERS: " in done.out


def test_offline_no_registry_is_asked(store: DockerStore, registry: Server) -> None:
    """With --offline the registry is not asked, and the image could not be checked."""
    digest = publish(registry.address, "shop/app", "1.4.2", document_of(store))
    done = program.call("scrub", "--offline", "--root", store.root, f"{registry.address}/shop/app@{digest}")

    assert done.code == 3
    assert "--documents" in done.out


def test_a_manifest_that_the_registry_lacks_could_not_be_checked(store: DockerStore, registry: Server) -> None:
    """A digest that the registry does not have is "could not check", with the registry's reason."""
    name = f"{registry.address}/shop/app@{Digest.of(b'none')}"
    done = program.call("scrub", "--root", store.root, name)

    assert done.code == 3
    assert "could not be fetched: " in done.out


def test_a_registry_that_only_the_store_names_is_not_contacted(store: DockerStore, tmp_path: Path) -> None:
    """A registry that only the store names is not contacted, since an attacker may have written its names."""
    digest = Digest.of(b"a manifest")
    name_it(store, "evil.example/shop/app:1.4.2", f"evil.example/shop/app@{digest}")
    (tmp_path / "proof").write_bytes(receipt(digest))
    given = ("--receipt", tmp_path / "proof", "--key", str(KEY.verifier))
    done = program.call("scrub", "--root", store.root, *given)

    assert done.code == 3
    assert "evil.example is not contacted" in done.out
