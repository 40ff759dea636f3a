"""Manipulations of configs, manifests and blobs, and of what is beside a layer's files, for the stores that have them."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Final

from boltseal.host.scrub.differences import DifferenceKind
from tests.attacks.scrub.file_manipulations import Manipulation
from tests.attacks.scrub.record_manipulations import CONTAINERD, LINKED, RecordManipulation, beside, found, harmless
from tests.attacks.scrub.stores import Store

BLOBS = "io.containerd.content.v1.content/blobs/sha256"

# ---- configs and manifests


def _config(store: Store) -> Path:
    key = base64.b64encode(f"sha256:{store.image}".encode()).decode()
    places = {
        "docker": f"image/overlay2/imagedb/content/sha256/{store.image}",
        "podman": f"overlay-images/{store.image}/={key}",
    }
    return store.root / places.get(store.name, f"{BLOBS}/{store.image}")


def _edited(path: Path, old: bytes, new: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(old, new))


def command_of_the_image_changed(store: Store) -> None:
    _edited(_config(store), b'"/app"', b'"/bin/su"')


def config_with_a_blank_more(store: Store) -> None:
    _edited(_config(store), b"{", b"{ ")


def config_removed(store: Store) -> None:
    _config(store).unlink()


def config_emptied(store: Store) -> None:
    _config(store).chmod(0o644)
    _config(store).write_bytes(b"")


def config_replaced_by_a_link(store: Store) -> None:
    _config(store).rename(store.root / "config")
    _config(store).symlink_to(store.root / "config")


# ---- containerd's blobs and records


def _layer_blobs(store: Store) -> list[Path]:
    return sorted((store.root / BLOBS).iterdir(), key=lambda each: each.stat().st_size)


def _manifest_blob(store: Store) -> Path:
    (found,) = [
        each for each in (store.root / BLOBS).iterdir() if b'"layers":[{' in each.read_bytes().replace(b" ", b"")
    ]
    return found


def layer_missing_from_the_manifest(store: Store) -> None:
    blob = _manifest_blob(store)
    manifest = json.loads(blob.read_bytes())
    del manifest["layers"][-1]
    blob.chmod(0o644)
    blob.write_text(json.dumps(manifest))


def manifest_removed(store: Store) -> None:
    _manifest_blob(store).unlink()


def blob_replaced_by_that_of_another_layer(store: Store) -> None:
    *_, other, largest = _layer_blobs(store)
    largest.unlink()
    shutil.copy2(other, largest)


def blob_emptied(store: Store) -> None:
    largest = _layer_blobs(store)[-1]
    largest.chmod(0o644)
    largest.write_bytes(b"")


def blob_with_more_behind_it(store: Store) -> None:
    largest = _layer_blobs(store)[-1]
    largest.chmod(0o644)
    largest.write_bytes(largest.read_bytes() + b"evil")


def blob_replaced_by_a_link(store: Store) -> None:
    largest = _layer_blobs(store)[-1]
    largest.rename(store.root / "blob")
    largest.symlink_to(store.root / "blob")


def mode_of_a_blob(store: Store) -> None:
    _layer_blobs(store)[-1].chmod(0o666)


def blob_that_no_image_names(store: Store) -> None:
    (store.root / BLOBS / ("e" * 64)).write_bytes(b"evil")


def file_beside_a_snapshot(store: Store) -> None:
    beside(store, 0, "evil").write_bytes(b"evil")


def snapshot_replaced_by_a_link(store: Store) -> None:
    snapshot = store.at("", 0).parent
    snapshot.rename(store.root / "moved")
    snapshot.symlink_to(store.root / "moved")


def files_in_the_work_folder(store: Store) -> None:
    beside(store, 1, "work").mkdir(exist_ok=True)
    (beside(store, 1, "work") / "evil").write_bytes(b"evil")


OF_DOCUMENTS: Final[dict[Manipulation, RecordManipulation]] = {
    command_of_the_image_changed: found((*LINKED, *CONTAINERD), DifferenceKind.CONFIG),
    config_with_a_blank_more: found((*LINKED, *CONTAINERD), DifferenceKind.CONFIG),
    config_removed: found((*LINKED, *CONTAINERD), DifferenceKind.CONFIG, DifferenceKind.MISSING),
    config_emptied: found((*LINKED, *CONTAINERD), DifferenceKind.CONFIG),
    config_replaced_by_a_link: found((*LINKED, *CONTAINERD), DifferenceKind.CONFIG),
    layer_missing_from_the_manifest: found(CONTAINERD, DifferenceKind.MANIFEST),
    manifest_removed: found(CONTAINERD, DifferenceKind.MANIFEST),
    blob_replaced_by_that_of_another_layer: found(CONTAINERD, DifferenceKind.DIGEST, DifferenceKind.SIZE),
    blob_emptied: found(CONTAINERD, DifferenceKind.DIGEST),
    blob_with_more_behind_it: found(CONTAINERD, DifferenceKind.SIZE),
    blob_replaced_by_a_link: found(CONTAINERD, DifferenceKind.METADATA),
    mode_of_a_blob: harmless(CONTAINERD, "the blob's digest is checked"),
    blob_that_no_image_names: harmless(CONTAINERD, "containerd unpacks only what an image names"),
    file_beside_a_snapshot: found(CONTAINERD, DifferenceKind.STACK),
    snapshot_replaced_by_a_link: found(CONTAINERD, DifferenceKind.METADATA),
    files_in_the_work_folder: harmless(
        (*LINKED, *CONTAINERD), "a layer below others is mounted without its work folder"
    ),
}
