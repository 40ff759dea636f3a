"""Reader of containerd's store, which Docker uses too ("containerd image store"), below its root.

io.containerd.content.v1.content/blobs/ALGORITHM/HEX        manifests, configs, layers, each under its digest
io.containerd.metadata.v1.bolt/meta.db                      v1/NAMESPACE/images/NAME/target: what a name resolves to
                                                            v1/NAMESPACE/snapshots/overlayfs/CHAIN: the snapshot's name
                                                            v1/NAMESPACE/content/blob/DIGEST/labels: the diff ID of a layer
io.containerd.snapshotter.v1.overlayfs/metadata.db          v1/snapshots/NAME: id, parent
io.containerd.snapshotter.v1.overlayfs/snapshots/ID/fs      the layer's files
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from boltseal.engines.bbolt import BboltFile, Bucket, uvarint
from boltseal.engines.json_documents import MAX_DOCUMENT_BYTES, digest
from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed, StoreUnreadable, explained
from boltseal.oci.digest import Digest

T = TypeVar("T")

CONTENT: Final = b"io.containerd.content.v1.content/blobs"
METADATA: Final = b"io.containerd.metadata.v1.bolt/meta.db"
SNAPSHOTS: Final = b"io.containerd.snapshotter.v1.overlayfs"
MAX_NAMES: Final = 100_000
"""Limit for images, snapshots and containers each. Kubernetes gives an image three names."""
MAX_NAME_BYTES: Final = 1024
ATTEMPTS: Final = 5
_UNCOMPRESSED: Final = b"containerd.io/uncompressed"
_VIEW: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class ContainerdImage:
    """A name in a namespace, and the digest that it resolves to."""

    namespace: str
    name: str
    target: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class LayerSnapshot:
    """A snapshot: the number of its folder, and the name of its parent. `is_view`: it shows its parent and has no files."""

    id: int
    parent: str
    is_view: bool = False


@dataclass(frozen=True, slots=True)
class NamedContainer:
    """A container, the name of its image, and the key of its snapshot."""

    namespace: str
    id: str
    image: str
    snapshotter: str
    snapshot: str


@dataclass(frozen=True, slots=True)
class ContainerdMetadata:
    """The relevant content of meta.db. `snapshots`: (namespace, key) -> name in the overlayfs snapshotter, and parent
    key.

    `elsewhere`: (namespace, key) -> snapshotter, for snapshots of other snapshotters.
    """

    images: tuple[ContainerdImage, ...]
    snapshots: Mapping[tuple[str, str], tuple[str, str]]
    containers: tuple[NamedContainer, ...]
    elsewhere: Mapping[tuple[str, str], str]
    damaged: tuple[str, ...]
    """Images that can't be parsed, with the reason."""
    layer_blobs: Mapping[tuple[str, Digest], Digest] = field(default_factory=dict)
    """(namespace, diff ID) -> the blob that containerd says it unpacked to that."""


class ContainerdStore:
    """The store below one root. Every method may raise StoreMissing, StoreUnreadable or StoreMalformed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = open_store(root)

    def metadata(self) -> ContainerdMetadata:
        """Return images, snapshots and containers of all namespaces."""
        return self._read(METADATA, _metadata)

    def snapshots(self) -> dict[str, LayerSnapshot]:
        """Return the snapshots of the overlayfs snapshotter by name."""
        if not self.files.exists(SNAPSHOTS + b"/metadata.db"):
            return {}
        return self._read(SNAPSHOTS + b"/metadata.db", _snapshots)

    def has(self, blob: Digest) -> bool:
        """Return whether a blob exists."""
        return self.files.exists(blob_at(blob))

    def document(self, blob: Digest) -> bytes:
        """Return the bytes of a manifest, index or config, unverified."""
        return self.files.read(blob_at(blob), MAX_DOCUMENT_BYTES)

    def _read(self, path: bytes, take: Callable[[BboltFile], T]) -> T:
        """Read a bolt file, again if it was written meanwhile."""
        for _ in range(ATTEMPTS):
            with self._bolt(path) as bolt:
                try:
                    taken = take(bolt)
                except StoreMalformed:
                    if bolt.consistent():
                        raise
                    continue
                except OSError as error:
                    raise explained(error, self.files.shown(path)) from error
                if bolt.consistent():
                    return taken
        raise StoreUnreadable(
            f"{self.files.shown(path)} is being written all the time; try again when the engine is less busy"
        )

    @contextmanager
    def _bolt(self, path: bytes) -> Iterator[BboltFile]:
        with self.files.opened(path) as fd:
            try:
                bolt = BboltFile(fd, path.decode())
            except OSError as error:
                raise explained(error, self.files.shown(path)) from error
            yield bolt


def blob_at(blob: Digest) -> bytes:
    """Return the path of a blob."""
    return CONTENT + f"/{blob.algorithm}/{blob.hex}".encode()


def _metadata(bolt: BboltFile) -> ContainerdMetadata:
    images: list[ContainerdImage] = []
    snapshots: dict[tuple[str, str], tuple[str, str]] = {}
    containers: list[NamedContainer] = []
    elsewhere: dict[tuple[str, str], str] = {}
    damaged: list[str] = []
    layer_blobs: dict[tuple[str, Digest], Digest] = {}
    for raw_namespace, inside in (bolt.root.below(b"v1") or bolt.root).buckets():
        namespace = _text(raw_namespace)
        for name, image in _in(inside, b"images"):
            target = image.below(b"target")
            if target is None:
                continue
            values = target.values()
            try:
                found = digest(values.get(b"digest", b""), f"image {_text(name)}")
            except StoreMalformed as error:
                damaged.append(error.message)
                continue
            images.append(ContainerdImage(namespace, _text(name), found, _text(values.get(b"mediatype", b""))))
            _bounded(bolt, len(images) + len(damaged), "images")
        for snapshotter, keys in _in(inside, b"snapshots"):
            for key, snapshot in keys.buckets():
                _bounded(bolt, len(snapshots) + len(elsewhere), "snapshots")
                if snapshotter != b"overlayfs":
                    elsewhere[namespace, _text(key)] = _text(snapshotter)
                    continue
                values = snapshot.values()
                snapshots[namespace, _text(key)] = _text(values.get(b"name", b"")), _text(values.get(b"parent", b""))
        for id_, container in _in(inside, b"containers"):
            values = container.values()
            containers.append(
                NamedContainer(
                    namespace,
                    _text(id_),
                    _text(values.get(b"image", b"")),
                    _text(values.get(b"snapshotter", b"")),
                    _text(values.get(b"snapshotKey", b"")),
                )
            )
            _bounded(bolt, len(containers), "containers")
        for diff_id, blob in _layer_blobs(inside):
            layer_blobs[namespace, diff_id] = blob
            _bounded(bolt, len(layer_blobs), "blobs of layers")
    return ContainerdMetadata(tuple(images), snapshots, tuple(containers), elsewhere, tuple(damaged), layer_blobs)


def _layer_blobs(namespace: Bucket) -> Iterator[tuple[Digest, Digest]]:
    """Yield the diff ID in the label of each blob of a layer, and the blob; malformed ones are skipped."""
    blobs = namespace.below(b"content", b"blob")
    for name, blob in blobs.buckets() if blobs is not None else ():
        labels = blob.below(b"labels")
        diff_id = labels.values().get(_UNCOMPRESSED) if labels is not None else None
        if diff_id is not None:
            with suppress(StoreMalformed):
                yield digest(diff_id, "a label"), digest(name, "a blob")


def _snapshots(bolt: BboltFile) -> dict[str, LayerSnapshot]:
    found: dict[str, LayerSnapshot] = {}
    snapshots = bolt.root.below(b"v1", b"snapshots")
    for name, snapshot in snapshots.buckets() if snapshots is not None else ():
        values = snapshot.values()
        _bounded(bolt, len(found), "snapshots")
        found[_text(name)] = LayerSnapshot(
            uvarint(values.get(b"id", b"")), _text(values.get(b"parent", b"")), values.get(b"kind", b"") == _VIEW
        )
    return found


def _bounded(bolt: BboltFile, count: int, what: str) -> None:
    if count > MAX_NAMES:
        raise StoreMalformed(f"{bolt.name} names more than {MAX_NAMES} {what}")


def _in(bucket: Bucket, name: bytes) -> Iterator[tuple[bytes, Bucket]]:
    below = bucket.below(name)
    return iter(()) if below is None else below.buckets()


def _text(raw: bytes) -> str:
    if len(raw) > MAX_NAME_BYTES:
        raise StoreMalformed(f"a name of {len(raw)} bytes in containerd's metadata")
    return raw.decode("utf-8", "backslashreplace")
