"""The manifests of an image in Podman's store, and the digests that its lists record."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.podman_store import plan
from boltseal.oci.digest import Digest

CONFIG = b'{"rootfs": {"type": "layers", "diff_ids": []}}'


def manifest(config: bytes, comment: str) -> bytes:
    """Return a manifest without layers."""
    described = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": str(Digest.of(config)),
        "size": len(config),
    }
    document = {"schemaVersion": 2, "config": described, "layers": [], "annotations": {"comment": comment}}
    return json.dumps(document).encode()


FIRST, SECOND = manifest(CONFIG, "first"), manifest(CONFIG, "second")
OTHER = manifest(b"{}", "another image")


def manifest_differences(
    root: Path, current: bytes, recorded: bytes, *, digest: bytes = FIRST, stored: tuple[bytes, ...] = (FIRST, SECOND)
) -> int:
    """Return how many differences of manifests a store of one image has.

    `current`: its `manifest`; `recorded`: that of its big-data-digests; `digest`: that of its digest; `stored`: those
    that are stored by their digests.
    """
    id_ = Digest.of(CONFIG).hex
    folder = root / "overlay-images" / id_
    folder.mkdir(parents=True)
    line = {"id": id_, "digest": str(Digest.of(digest)), "big-data-digests": {"manifest": str(Digest.of(recorded))}}
    (root / "overlay-images/images.json").write_text(json.dumps([line]))
    documents = {f"manifest-{Digest.of(each)}": each for each in stored} | {str(Digest.of(CONFIG)): CONFIG}
    for key, raw in documents.items():
        (folder / f"={base64.b64encode(key.encode()).decode()}").write_bytes(raw)
    (folder / "manifest").write_bytes(current)
    (image,) = plan(root).images
    return sum(each.kind is DifferenceKind.MANIFEST for each in image.differences)


@pytest.mark.parametrize("current", [FIRST, SECOND], ids=["as-first-stored", "replaced-by-a-pull"])
def test_an_image_that_was_pulled_with_another_manifest_of_the_same_config_is_clean(
    tmp_path: Path, current: bytes
) -> None:
    """As Podman does after build, push and pull, images.json may keep the first manifest's digest."""
    assert manifest_differences(tmp_path, current, current) == 0


def test_a_manifest_that_was_changed_beside_the_lists_differs(tmp_path: Path) -> None:
    """A manifest changed beside the lists differs, because images.json has the former digest."""
    assert manifest_differences(tmp_path, SECOND, FIRST) == 1


def test_a_replaced_manifest_that_is_not_stored_by_its_digest_differs(tmp_path: Path) -> None:
    """A replaced manifest that is not also stored by its digest, as Podman does, differs."""
    assert manifest_differences(tmp_path, SECOND, SECOND, stored=(FIRST,)) == 1


def test_a_replaced_manifest_without_the_first_one_differs(tmp_path: Path) -> None:
    """A replaced manifest without the first one, which Podman keeps, differs."""
    assert manifest_differences(tmp_path, SECOND, SECOND, stored=(SECOND,)) == 1


def test_a_replaced_manifest_of_another_config_differs(tmp_path: Path) -> None:
    """A replaced manifest of another config differs, because the config's digest is the image ID."""
    assert manifest_differences(tmp_path, OTHER, OTHER, stored=(FIRST, OTHER)) == 1


def index(*manifests: bytes) -> bytes:
    """Return an index of manifests."""
    described = [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": str(Digest.of(each)), "size": len(each)}
        for each in manifests
    ]
    return json.dumps({"schemaVersion": 2, "manifests": described}).encode()


@pytest.mark.parametrize(("listed", "differences"), [(FIRST, 0), (OTHER, 1)], ids=["its-own", "another-images"])
def test_an_image_that_was_pulled_by_an_index_has_a_manifest_of_that_index(
    tmp_path: Path, listed: bytes, differences: int
) -> None:
    """An image pulled by an index's digest is clean if the index refers to its manifest, as Podman records it."""
    by = index(SECOND, listed)

    assert manifest_differences(tmp_path, FIRST, FIRST, digest=by, stored=(by, FIRST)) == differences
