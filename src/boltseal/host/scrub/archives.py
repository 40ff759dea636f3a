"""Plans the check of OCI layouts, OCI archives and `docker save` archives, from index.json, manifest.json, or both.

Newer archives have both lists, and tools read one or the other, so both are followed. An image that they disagree on is
reported twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from boltseal.engines.archives import NamedFiles, open_image_files
from boltseal.engines.json_documents import MAX_DOCUMENT_BYTES, decoded, read_manifest
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.manifests import image_plans
from boltseal.host.scrub.plans import Allowance, ImagePlan, StorePlan, diff_ids
from boltseal.oci.annotations import CONTAINERD_NAME, REF_NAME
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid
from boltseal.oci.mediatype import MANIFEST_TYPES, OCI_INDEX

NAME: Final = "archive"
MAX_IMAGES: Final = 10_000
_NAMES: Final = (CONTAINERD_NAME, REF_NAME)


class _Saved(msgspec.Struct, rename="pascal"):
    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


def plan(path: Path) -> StorePlan:
    """Return the plan of a layout or archive; unreadable or malformed content is part of the plan, never raised."""
    unknown: list[str] = []
    images: list[ImagePlan] = []
    try:
        files, allowance = open_image_files(path), Allowance()
        if files.has("index.json"):
            images += _indexed(files, allowance)
        if files.has("manifest.json"):
            known = {image.config for image in images}
            images += [image for image in _saved(files, allowance) if image.config not in known or image.differences]
        if not files.has("index.json") and not files.has("manifest.json"):
            unknown.append(f"{path} has no image: it has neither index.json nor manifest.json")
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    return StorePlan(NAME, path, tuple(images), (), tuple(unknown))


class _Blobs:
    """The blobs of a layout, by digest."""

    def __init__(self, files: NamedFiles, allowance: Allowance) -> None:
        self.root = files.root
        self.allowance = allowance
        self._files = files

    def has(self, blob: Digest) -> bool:
        return self._files.has(_name(blob))

    def document(self, blob: Digest) -> bytes:
        return self._files.read(_name(blob), MAX_DOCUMENT_BYTES)

    def files(self, blob: Digest, diff_id: Digest, folder: bytes | None, *, artifact: bool) -> LayerFiles:
        place = self._files.place(_name(blob))
        return LayerFiles(
            root=self.root,
            diff_id=diff_id,
            folder=folder,
            blob=place.file,
            blob_digest=blob,
            blob_start=place.start,
            blob_size=place.size,
            artifact=artifact,
        )


def _indexed(files: NamedFiles, allowance: Allowance) -> list[ImagePlan]:
    try:
        index = read_manifest(files.read("index.json", MAX_DOCUMENT_BYTES), OCI_INDEX)
    except ManifestInvalid as error:
        raise StoreMalformed(f"index.json: {error.message}") from error
    found: list[ImagePlan] = []
    blobs = _Blobs(files, allowance)
    named: dict[Digest, tuple[str, set[str]]] = {}
    for each in index.manifests:
        names = {each.annotations[key] for key in _NAMES if each.annotations.get(key)}
        named.setdefault(each.digest, (each.media_type, set()))[1].update(names)
    for digest, (media_type, names) in named.items():
        found += image_plans(
            blobs, NAME, digest, media_type, tuple(sorted(names)), lambda chain, _found, _inits, _unknown: [None] * len(chain)
        )  # fmt: skip
    return found


def _saved(files: NamedFiles, allowance: Allowance) -> list[ImagePlan]:
    listed = decoded(files.read("manifest.json", MAX_DOCUMENT_BYTES), list[_Saved], "manifest.json")
    if len(listed) > MAX_IMAGES:
        raise StoreMalformed(f"manifest.json lists too many images (got {len(listed)}, expected at most {MAX_IMAGES})")
    return [_saved_image(files, image, allowance) for image in listed]


def _saved_image(files: NamedFiles, image: _Saved, allowance: Allowance) -> ImagePlan:
    found: list[Difference] = []
    unknown: list[str] = []
    layers: list[LayerFiles] = []
    id_ = Digest.of(b"")
    try:
        raw = files.read(image.config, MAX_DOCUMENT_BYTES)
        id_ = Digest.of(raw)
        stem = image.config.rpartition("/")[2].removesuffix(".json")
        if stem != id_.hex:
            found.append(difference(DifferenceKind.CONFIG, b"", f"a config whose digest is {stem}", id_))
        diffs = diff_ids(raw, "the config", allowance)
        paths = image.layers or []
        if len(diffs) != len(paths):
            found.append(
                difference(DifferenceKind.CONFIG, b"", f"{len(paths)} layers, as manifest.json says", f"{len(diffs)}")
            )
        for diff, path in zip(diffs, paths, strict=False):
            place = files.place(path)
            layer = LayerFiles(
                root=files.root, diff_id=diff, blob=place.file, blob_start=place.start, blob_size=place.size
            )
            layers.append(allowance.once(layer))
    except (StoreMissing, StoreMalformed) as error:
        found.append(
            difference(DifferenceKind.MISSING, readable(image.config.encode()).encode(), "there", error.message)
        )
    except StoreUnreadable as error:
        unknown.append(error.message)
    names = tuple(sorted(image.repo_tags or ()))
    return ImagePlan(NAME, files.root, id_, id_, names, tuple(layers), tuple(found), tuple(unknown))


def _name(blob: Digest) -> str:
    return f"blobs/{blob.algorithm}/{blob.hex}"


def documents_in(path: Path) -> dict[Digest, bytes]:
    """Return the manifests and indexes in a layout or archive, by the digests of their bytes.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    files = open_image_files(path)
    found: dict[Digest, bytes] = {}
    todo = [files.read("index.json", MAX_DOCUMENT_BYTES)]
    while todo and len(found) < MAX_IMAGES:
        raw = todo.pop()
        found[Digest.of(raw)] = raw
        try:
            manifest = read_manifest(raw, OCI_INDEX)
        except ManifestInvalid as error:
            raise StoreMalformed(f"{path}: {error.message}") from error
        for child in manifest.manifests:
            name = _name(child.digest)
            if child.digest not in found and child.media_type in MANIFEST_TYPES and files.has(name):
                todo.append(files.read(name, MAX_DOCUMENT_BYTES))
    return found
