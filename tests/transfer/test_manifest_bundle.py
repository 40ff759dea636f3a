"""Manifests and configs beside a receipt: complete, and nothing in them is believed."""

from __future__ import annotations

import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from boltseal.files.named_files import FileMissing
from boltseal.oci.digest import Digest
from boltseal.transfer import manifest_bundle
from boltseal.transfer.layout import LayoutLocation
from boltseal.transfer.protocols import ContentDamaged, LocationInvalid, LocationNotFound, LocationUnavailable
from tests.images import Document, artifact, image, index

APP = index(image("amd64"), image("arm64"))


async def layout(tmp_path: Path, document: Document, *, without: str = "") -> LayoutLocation:
    """A layout that holds a document and all below it, but for one digest."""
    place = LayoutLocation(tmp_path / "layout")
    blobs = {each.digest: each.data for part in (document, *document.children) for each in part.blobs}
    blobs |= {each.digest: each.raw for each in (document, *document.children)}
    for digest, raw in blobs.items():
        path = tmp_path / "layout/blobs" / digest.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if digest != without:
            path.write_bytes(raw)
    (tmp_path / "layout/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entries = [document.descriptor(), *(child.descriptor() for child in document.children)]
    (tmp_path / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return place


async def written(tmp_path: Path, document: Document = APP, *, without: str = "") -> Path:
    digest = Digest.parse(document.digest)
    found = await manifest_bundle.collect(await layout(tmp_path, document, without=without), digest)
    manifest_bundle.write(tmp_path / "app.oci", found, digest, document.media_type, "reg.example/shop/app:1.4.2")
    return tmp_path / "app.oci"


async def test_everything_but_the_layers_is_there(tmp_path: Path) -> None:
    """Index, manifests and configs; hashes lead down to every layer's digest."""
    checked = manifest_bundle.check(await written(tmp_path), Digest.parse(APP.digest))

    assert (checked.manifests, checked.configs, checked.layers, checked.missing) == (3, 2, 2, ())


async def test_it_is_a_layout_that_other_tools_read(tmp_path: Path) -> None:
    """Under its reference."""
    with tarfile.open(await written(tmp_path)) as tar:
        tar.extractall(tmp_path / "out", filter="data")

    assert str(await LayoutLocation(tmp_path / "out").resolve("reg.example/shop/app:1.4.2")) == APP.digest


async def test_a_platform_that_the_registry_does_not_have_is_named(tmp_path: Path) -> None:
    """An index may be sparse."""
    checked = manifest_bundle.check(await written(tmp_path, without=APP.children[1].digest), Digest.parse(APP.digest))

    assert [str(one) for one in checked.missing] == [APP.children[1].digest]


async def test_what_the_registry_does_not_have_at_all_is_no_paper(tmp_path: Path) -> None:
    """The named manifest is the least."""
    with pytest.raises(LocationNotFound):
        await written(tmp_path, without=APP.digest)


async def test_an_artifact_has_no_config(tmp_path: Path) -> None:
    """The empty config of an artifact lists no files."""
    sbom = artifact("sbom")
    checked = manifest_bundle.check(await written(tmp_path, sbom), Digest.parse(sbom.digest))

    assert (checked.manifests, checked.configs) == (1, 0)


def archive(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, raw in files.items():
            member = tarfile.TarInfo(f"blobs/sha256/{name}")
            member.size = len(raw)
            tar.addfile(member, BytesIO(raw))
    return path


def test_a_bundle_of_another_image_is_refused(tmp_path: Path) -> None:
    """The receipt says which."""
    with pytest.raises(manifest_bundle.BundleMissing):
        manifest_bundle.check(archive(tmp_path / "app.oci"), Digest.parse(APP.digest))


def test_bytes_of_another_digest_are_refused(tmp_path: Path) -> None:
    """A name in an archive proves nothing."""
    path = archive(tmp_path / "app.oci", **{APP.digest[7:]: APP.raw + b" "})
    with pytest.raises(ContentDamaged, match="another digest"):
        manifest_bundle.check(path, Digest.parse(APP.digest))


def test_a_missing_config_is_reported(tmp_path: Path) -> None:
    """The message names the missing document."""
    one = image("one")
    checked = manifest_bundle.check(
        archive(tmp_path / "app.oci", **{one.digest[7:]: one.raw}), Digest.parse(one.digest)
    )

    assert [str(each) for each in checked.missing] == [one.config.digest]


@pytest.mark.parametrize("raw", [b"no tar", b""])
def test_what_is_no_archive_is_refused(tmp_path: Path, raw: bytes) -> None:
    """Not a traceback."""
    (tmp_path / "app.oci").write_bytes(raw)
    with pytest.raises(manifest_bundle.BundleInvalid):
        manifest_bundle.check(tmp_path / "app.oci", Digest.parse(APP.digest))


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    """Though its digest is right."""
    raw = b"[" * 100_000
    with pytest.raises(manifest_bundle.BundleInvalid):
        manifest_bundle.check(archive(tmp_path / "app.oci", **{Digest.of(raw).hex: raw}), Digest.of(raw))


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """For writing and for reading."""
    with pytest.raises(LocationUnavailable):
        manifest_bundle.replace_bytes(tmp_path / "nowhere/app", b"")
    with pytest.raises(FileMissing):
        manifest_bundle.check(tmp_path / "app.oci", Digest.parse(APP.digest))


@pytest.mark.parametrize("there", ["pipe", "link", "folder"])
def test_a_receipt_takes_the_place_of_plain_files_alone(tmp_path: Path, there: str) -> None:
    """Root that says `-o /dev/null` would have no such device any more."""
    path = tmp_path / "x"
    if there == "link":
        path.symlink_to("gone")
    else:
        (os.mkfifo if there == "pipe" else os.mkdir)(path)
    before = path.lstat()

    with pytest.raises(LocationInvalid, match="is not a regular file"):
        manifest_bundle.replace_bytes(path, b"x")

    assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]
