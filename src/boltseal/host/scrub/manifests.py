"""Plans images in stores that keep manifests: from an index or manifest to configs and layers.

`image_plans` reads the small documents, compares each with its digest, and returns a plan for each platform in the store.
Images of an index that the store does not have were not pulled, which is no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from boltseal.engines.json_documents import read_manifest
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.implied_folders import ImpliedFolders
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.plans import MAX_LAYERS, Allowance, ImagePlan, Init, chain_ids, diff_ids
from boltseal.host.scrub.unpacking_rules import CONTAINERD, CONTAINERD_LOWEST
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.fresh_layers import originals_of
from boltseal.oci.manifest import Manifest, ManifestInvalid
from boltseal.oci.mediatype import DOCKER_CONFIG, OCI_CONFIG

_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_IN_TOTO: Final = "application/vnd.in-toto+json"


class BlobSource(Protocol):
    """A store of blobs by digest. Methods raise StoreMissing, StoreUnreadable, StoreMalformed."""

    root: Path
    allowance: Allowance

    def has(self, blob: Digest) -> bool:
        """Return whether the store has a blob."""

    def document(self, blob: Digest) -> bytes:
        """Return the bytes of a small blob, unverified."""

    def files(self, blob: Digest, diff_id: Digest, folder: bytes | None, *, artifact: bool) -> LayerFiles:
        """Return the layer of a blob."""


Folders = Callable[[list[Digest], list[Difference], list[Init], list[str]], Sequence[bytes | None]]
"""Returns the folders that layers with these chain IDs were unpacked into, None for those that were not.

It appends to its other arguments: differences, `inits`, and what could not be checked.
"""


@dataclass(slots=True)
class _Collected:
    """What was collected for one image."""

    differences: list[Difference] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    documents: dict[Digest, bytes] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)


def image_plans(
    source: BlobSource, store: str, target: Digest, media_type: str | None, names: tuple[str, ...], folders: Folders
) -> list[ImagePlan]:
    """Return a plan for each platform of an image in the store, at least one."""
    found = _Collected()
    try:
        _collect_manifests(source, target, media_type, found)
    except (StoreMissing, StoreMalformed, ManifestInvalid) as error:
        found.differences.append(difference(DifferenceKind.MANIFEST, b"", f"the manifest {target}", error.message))
    except StoreUnreadable as error:
        found.unknown.append(error.message)
    images = [manifest for manifest in found.manifests if _is_image(manifest)]
    artifacts = [
        replace(source.files(each.digest, each.digest, None, artifact=True), manifest_size=each.size)
        for manifest in found.manifests
        if not _is_image(manifest)
        for each in (*manifest.layers, *([manifest.config] if manifest.config is not None else []))
        if source.has(each.digest)
    ]
    if images:
        return [_plan(source, store, target, names, each, found, artifacts, folders) for each in images]
    if not (found.differences or artifacts or found.unknown):
        found.unknown.append("none of its platforms is in this store")
    return [
        ImagePlan(
            store=store, root=source.root, id=target, config=target, names=names, layers=tuple(artifacts),
            differences=tuple(found.differences), unknown=tuple(found.unknown), documents=found.documents,
        )
    ]  # fmt: skip


def _is_image(manifest: Manifest) -> bool:
    """Return whether a manifest is a runnable image, not an attestation, a signature or another artifact."""
    attests = bool(manifest.layers) and all(each.media_type == _IN_TOTO for each in manifest.layers)
    return manifest.config is not None and manifest.config.media_type in _CONFIGS and not attests


def _collect_manifests(source: BlobSource, target: Digest, media_type: str | None, found: _Collected) -> None:
    """Collect the manifests in the store, through nested indexes."""
    todo: list[tuple[Digest, str | None]] = [(target, media_type)]
    while todo:
        digest, type_ = todo.pop(0)
        if digest in found.documents or (digest != target and not source.has(digest)):
            continue
        raw = source.allowance.keep(source.document(digest))
        actual = Digest.of(raw, digest.algorithm)
        if actual != digest:
            found.differences.append(
                difference(DifferenceKind.MANIFEST, b"", f"a manifest whose digest is {digest}", actual)
            )
        found.documents[digest] = raw
        if len(found.documents) > MAX_LAYERS:
            raise StoreMalformed(f"an index of more than {MAX_LAYERS} manifests")
        manifest = read_manifest(raw, type_)
        if manifest.is_index:
            todo += [(each.digest, each.media_type) for each in manifest.manifests]
        elif manifest.config is None or source.has(manifest.config.digest) or digest == target:
            found.manifests.append(manifest)


def _plan(
    source: BlobSource,
    store: str,
    target: Digest,
    names: tuple[str, ...],
    manifest: Manifest,
    found: _Collected,
    artifacts: list[LayerFiles],
    folders: Folders,
) -> ImagePlan:
    assert manifest.config is not None  # noqa: S101 - `_is_image` says so
    differences, unknown = list(found.differences), list(found.unknown)
    layers: list[LayerFiles] = []
    inits: list[Init] = []
    config = manifest.config.digest
    originals: tuple[Digest, ...] = ()
    try:
        raw = source.document(config)
        originals = originals_of(raw)
        actual = Digest.of(raw, config.algorithm)
        if actual != config:
            differences.append(difference(DifferenceKind.CONFIG, b"", f"a config whose digest is {config}", actual))
        diffs = diff_ids(raw, f"the config {config.short}", source.allowance)
        if len(diffs) == len(manifest.layers):
            layers = _layers(
                source, manifest.layers, diffs, folders(chain_ids(diffs), differences, inits, unknown), unknown
            )
        else:
            wanted = f"{len(manifest.layers)} layers, as the manifest says"
            differences.append(difference(DifferenceKind.CONFIG, b"", wanted, f"{len(diffs)} diff IDs"))
    except (StoreMissing, StoreMalformed) as error:
        differences.append(difference(DifferenceKind.CONFIG, b"", "an image's config", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    return ImagePlan(
        store=store, root=source.root, id=target, config=config, names=names, layers=(*layers, *artifacts),
        differences=tuple(differences), unknown=tuple(unknown), documents=found.documents, inits=tuple(inits),
        copy_of=originals,
    )  # fmt: skip


def _layers(
    source: BlobSource,
    described: Sequence[Descriptor],
    diffs: Sequence[Digest],
    folders: Sequence[bytes | None],
    unknown: list[str],
) -> list[LayerFiles]:
    layers = []
    below: tuple[bytes, ...] = ()
    for each, diff, folder in zip(described, diffs, folders, strict=True):
        if source.has(each.digest):
            rules = CONTAINERD if folders[0] != folder else CONTAINERD_LOWEST
            layer = source.files(each.digest, diff, folder, artifact=False)
            layer = replace(
                layer,
                manifest_size=each.size,
                rules=rules,
                implied=ImpliedFolders(below=below, keeps_bit=False, keeps_group=True),
            )
            layers.append(source.allowance.once(layer))
        elif folder is not None:
            why = f"the blob of layer {each.digest.short} is not in this store, and its files can't be compared without it"
            layer = replace(source.files(each.digest, diff, folder, artifact=False), blob=None, blob_digest=None)
            layers.append(source.allowance.once(replace(layer, unprovable=why)))
        elif not each.foreign:
            unknown.append(f"the blob of layer {each.digest.short} is not in this store, and it was not pulled")
        below = (folder, *below) if folder is not None else below
    return layers
