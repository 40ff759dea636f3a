"""Manifests and configs beside a receipt: complete, and trusted only by their hashes."""

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
    """Return a layout with a document and everything below it, except for one digest."""
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


async def test_a_bundle_has_everything_but_the_layers(tmp_path: Path) -> None:
    """A bundle has index, manifests and configs, whose hashes lead down to every layer's digest."""
    checked = manifest_bundle.check(await written(tmp_path), Digest.parse(APP.digest))

    assert (checked.manifests, checked.configs, checked.layers, checked.missing) == (3, 2, 2, ())


async def test_a_bundle_is_a_layout_that_other_tools_read(tmp_path: Path) -> None:
    """A bundle is an OCI layout that other tools read, under its reference."""
    with tarfile.open(await written(tmp_path)) as tar:
        tar.extractall(tmp_path / "out", filter="data")

    assert str(await LayoutLocation(tmp_path / "out").resolve("reg.example/shop/app:1.4.2")) == APP.digest


async def test_a_platform_that_the_registry_lacks_is_named(tmp_path: Path) -> None:
    """A platform that a sparse index lacks in the registry is named."""
    checked = manifest_bundle.check(await written(tmp_path, without=APP.children[1].digest), Digest.parse(APP.digest))

    assert [str(one) for one in checked.missing] == [APP.children[1].digest]


async def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    """Without the named manifest in the registry, no bundle is written."""
    with pytest.raises(LocationNotFound):
        await written(tmp_path, without=APP.digest)


async def test_an_artifact_needs_no_config(tmp_path: Path) -> None:
    """An artifact's empty config, which lists no files, is not needed."""
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
    """A bundle of another image than the receipt's is refused."""
    with pytest.raises(manifest_bundle.BundleMissing):
        manifest_bundle.check(archive(tmp_path / "app.oci"), Digest.parse(APP.digest))


def test_bytes_of_another_digest_are_refused(tmp_path: Path) -> None:
    """Bytes in a bundle without the digest of their name are refused."""
    path = archive(tmp_path / "app.oci", **{APP.digest[7:]: APP.raw + b" "})
    with pytest.raises(ContentDamaged, match="another digest"):
        manifest_bundle.check(path, Digest.parse(APP.digest))


def test_a_missing_config_is_reported(tmp_path: Path) -> None:
    """A missing config in a bundle is reported by name."""
    one = image("one")
    checked = manifest_bundle.check(
        archive(tmp_path / "app.oci", **{one.digest[7:]: one.raw}), Digest.parse(one.digest)
    )

    assert [str(each) for each in checked.missing] == [one.config.digest]


@pytest.mark.parametrize("raw", [b"no tar", b""])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, raw: bytes) -> None:
    """A file that is no archive is refused without a traceback."""
    (tmp_path / "app.oci").write_bytes(raw)
    with pytest.raises(manifest_bundle.BundleInvalid):
        manifest_bundle.check(tmp_path / "app.oci", Digest.parse(APP.digest))


def test_a_document_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    """A document with the right digest that is no manifest is refused."""
    raw = b"[" * 100_000
    with pytest.raises(manifest_bundle.BundleInvalid):
        manifest_bundle.check(archive(tmp_path / "app.oci", **{Digest.of(raw).hex: raw}), Digest.of(raw))


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """A missing folder is an error for writing and for reading."""
    with pytest.raises(LocationUnavailable):
        manifest_bundle.replace_bytes(tmp_path / "nowhere/app", b"")
    with pytest.raises(FileMissing):
        manifest_bundle.check(tmp_path / "app.oci", Digest.parse(APP.digest))


@pytest.mark.parametrize("there", ["pipe", "link", "folder"])
def test_a_receipt_replaces_only_plain_files(tmp_path: Path, there: str) -> None:
    """A receipt replaces only plain files, so that root's `-o /dev/null` does not replace the device."""
    path = tmp_path / "x"
    if there == "link":
        path.symlink_to("gone")
    else:
        (os.mkfifo if there == "pipe" else os.mkdir)(path)
    before = path.lstat()

    with pytest.raises(LocationInvalid, match="is not a regular file"):
        manifest_bundle.replace_bytes(path, b"x")

    after = path.lstat()  # not the whole: reading a link may count as its last access
    assert (after.st_ino, after.st_mode, after.st_ctime_ns) == (before.st_ino, before.st_mode, before.st_ctime_ns)
    assert list(tmp_path.iterdir()) == [path]
