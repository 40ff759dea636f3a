"""Manipulations of what a store records beside the layers' files: links, lists, digests, parents, tar-splits, configs, blobs.

Each has the stores it exists in, and the kind of difference that must be found, or the reason why it is harmless.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from boltseal.host.scrub.differences import DifferenceKind
from tests.attacks.scrub.file_manipulations import Manipulation
from tests.attacks.scrub.stores import Store

DOCKER, PODMAN = ("docker",), ("podman",)
LINKED, CONTAINERD = ("docker", "podman"), ("docker-containerd", "containerd")
LAYERDB = "image/overlay2/layerdb/sha256"
BLOBS = "io.containerd.content.v1.content/blobs/sha256"


class RecordManipulation(NamedTuple):
    """A row of the matrix. `kinds`: one of these must be found; none if `harmless` says why nothing is."""

    stores: tuple[str, ...]
    kinds: frozenset[DifferenceKind]
    harmless: str = ""


def found(stores: tuple[str, ...], *kinds: DifferenceKind) -> RecordManipulation:
    return RecordManipulation(stores, frozenset(kinds))


def harmless(stores: tuple[str, ...], why: str) -> RecordManipulation:
    return RecordManipulation(stores, frozenset(), why)


# ---- links and lists of layers


def beside(store: Store, layer: int, name: str) -> Path:
    return store.at("", layer).parent / name


def _link(store: Store, layer: int) -> Path:
    folder = store.at("", layer).parent
    return folder.parent / "l" / (folder / "link").read_text()


def list_of_layers_in_other_order(store: Store) -> None:
    lower = beside(store, 2, "lower")
    lower.write_text(":".join(reversed(lower.read_text().split(":"))))


def list_of_layers_emptied(store: Store) -> None:
    beside(store, 2, "lower").write_text("")


def list_of_layers_removed(store: Store) -> None:
    beside(store, 2, "lower").unlink()


def list_of_layers_given_to_the_lowest(store: Store) -> None:
    beside(store, 0, "lower").write_text(f"l/{beside(store, 1, 'link').read_text()}")


def layer_listed_twice(store: Store) -> None:
    lower = beside(store, 2, "lower")
    lower.write_text(f"{lower.read_text()}:{lower.read_text()}")


def layer_listed_by_an_absolute_path(store: Store) -> None:
    lower = beside(store, 2, "lower")
    lower.write_text(f"{store.at('', 1)}:{lower.read_text().split(':')[1]}")


def stack_link_removed(store: Store) -> None:
    _link(store, 0).unlink()


def stack_link_replaced_by_a_folder(store: Store) -> None:
    link = _link(store, 0)
    link.unlink()
    subprocess.run(["cp", "-a", store.at("", 0), link], check=True)


def two_stack_links_exchanged(store: Store) -> None:
    first, second = _link(store, 0), _link(store, 1)
    targets = second.readlink(), first.readlink()
    for link, target in zip((first, second), targets, strict=True):
        link.unlink()
        link.symlink_to(target)


def stack_link_through_another_link(store: Store) -> None:
    link = _link(store, 0)
    (link.parent / "way").symlink_to(link.readlink())
    link.unlink()
    link.symlink_to("way")


def stack_link_that_no_layer_uses(store: Store) -> None:
    (_link(store, 0).parent / ("Z" * 26)).symlink_to("../nothing/diff")


def short_name_with_a_line_end(store: Store) -> None:
    path = beside(store, 0, "link")
    path.write_text(path.read_text() + "\n")


def list_of_layers_with_a_line_end(store: Store) -> None:
    path = beside(store, 2, "lower")
    path.write_text(path.read_text() + "\n")


# ---- Docker's records


def _record(store: Store, layer: int) -> Path:
    folder = store.at("", layer).parent.name
    (found,) = [each for each in (store.root / LAYERDB).glob("*/cache-id") if each.read_text() == folder]
    return found.parent


def parent_recorded_otherwise(store: Store) -> None:
    (_record(store, 2) / "parent").write_text(f"sha256:{_record(store, 0).name}")


def parent_record_removed(store: Store) -> None:
    (_record(store, 2) / "parent").unlink()


def digest_recorded_otherwise(store: Store) -> None:
    (_record(store, 0) / "diff").write_text("sha256:" + "e" * 64)


def two_cache_ids_exchanged(store: Store) -> None:
    first, second = _record(store, 0) / "cache-id", _record(store, 1) / "cache-id"
    values = second.read_text(), first.read_text()
    first.write_text(values[0])
    second.write_text(values[1])


def one_cache_id_for_two_layers(store: Store) -> None:
    (_record(store, 1) / "cache-id").write_text((_record(store, 0) / "cache-id").read_text())


def layer_record_removed(store: Store) -> None:
    shutil.rmtree(_record(store, 0))


def size_recorded_otherwise(store: Store) -> None:
    (_record(store, 0) / "size").write_text("1")


def blob_recorded_for_another_layer(store: Store) -> None:
    folder = store.root / "image/overlay2/distribution/diffid-by-digest/sha256"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("e" * 64)).write_text((_record(store, 0) / "diff").read_text())


def parent_image_recorded(store: Store) -> None:
    folder = store.root / f"image/overlay2/imagedb/metadata/sha256/{store.image}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parent").write_text("sha256:" + "e" * 64)


# ---- tar-splits


def _split(store: Store, layer: int) -> Path:
    if store.name == "podman":
        return store.root / "overlay-layers" / f"{store.at('', layer).parent.name}.tar-split.gz"
    return _record(store, layer) / "tar-split.json.gz"


def _edited_split(store: Store, edit: Callable[[list[dict[str, Any]]], None], layer: int = 0) -> None:
    path = _split(store, layer)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    edit(lines)
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


def _header_forged(store: Store, layer: int, old: bytes, new: bytes) -> None:
    """Change the headers in a tar-split, so that they agree with a file that was changed."""

    def edit(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["type"] == 2 and line.get("payload"):
                raw = base64.b64decode(line["payload"])
                line["payload"] = base64.b64encode(raw.replace(old, new)).decode()

    _edited_split(store, edit, layer)


def setuid_added_in_file_and_header(store: Store) -> None:
    store.at("app", 2).chmod(0o4755)
    _header_forged(store, 2, b"0000755\0", b"0004755\0")


def link_retargeted_in_layer_and_header(store: Store) -> None:
    store.at("lib").unlink()
    store.at("lib").symlink_to("usr/evl")
    _header_forged(store, 0, b"usr/lib\0", b"usr/evl\0")


def file_and_its_entry_removed(store: Store) -> None:
    store.at("etc/passwd", 1).unlink()

    def edit(lines: list[dict[str, Any]]) -> None:
        at = next(index for index, line in enumerate(lines) if line.get("name") == "etc/passwd")
        del lines[at - 1 : at + 1]

    _edited_split(store, edit, 1)


def whiteout_and_its_entry_removed(store: Store) -> None:
    store.at("etc/gone", 1).unlink()

    def edit(lines: list[dict[str, Any]]) -> None:
        at = next(index for index, line in enumerate(lines) if line.get("name") == "etc/.wh.gone")
        del lines[at - 1 : at + 1]

    _edited_split(store, edit, 1)


def two_tar_splits_exchanged(store: Store) -> None:
    first, second = _split(store, 0), _split(store, 1)
    contents = second.read_bytes(), first.read_bytes()
    first.write_bytes(contents[0])
    second.write_bytes(contents[1])


def tar_split_emptied(store: Store) -> None:
    _split(store, 0).write_bytes(b"")


def tar_split_with_nothing_in_it(store: Store) -> None:
    _split(store, 0).write_bytes(gzip.compress(b""))


def tar_split_with_more_behind_it(store: Store) -> None:
    path = _split(store, 0)
    line = json.dumps({"type": 2, "payload": base64.b64encode(b"evil" * 128).decode()}).encode() + b"\n"
    path.write_bytes(path.read_bytes() + gzip.compress(line))


def tar_split_of_endless_zeros(store: Store) -> None:
    _split(store, 0).write_bytes(gzip.compress(bytes(50_000_000)))


def tar_split_compressed_again(store: Store) -> None:
    path = _split(store, 0)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))


# ---- Podman's records


def _edited_layers(store: Store, layer: int, **values: object) -> None:
    path = store.root / "overlay-layers/layers.json"
    records = json.loads(path.read_bytes())
    (record,) = [each for each in records if each["id"] == store.at("", layer).parent.name]
    record.update(values)
    path.write_text(json.dumps(records))


def _edited_image(store: Store, **values: object) -> None:
    path = store.root / "overlay-images/images.json"
    (record,) = json.loads(path.read_bytes())
    record.update(values)
    path.write_text(json.dumps([record]))


def parent_of_a_layer_changed(store: Store) -> None:
    _edited_layers(store, 2, parent=store.at("", 0).parent.name)


def digest_of_a_layer_changed(store: Store) -> None:
    _edited_layers(store, 0, **{"diff-digest": "sha256:" + "e" * 64})


def size_of_a_layer_changed(store: Store) -> None:
    _edited_layers(store, 0, **{"diff-size": 1})


def digest_of_the_compressed_layer_changed(store: Store) -> None:
    _edited_layers(store, 0, **{"compressed-diff-digest": "sha256:" + "e" * 64})


def partial_pull_claimed(store: Store) -> None:
    _edited_layers(store, 0, **{"toc-digest": "sha256:" + "e" * 64, "diff-digest": ""})


def image_ends_at_a_lower_layer(store: Store) -> None:
    _edited_image(store, layer=store.at("", 1).parent.name)


def image_without_a_layer(store: Store) -> None:
    _edited_image(store, layer="")


def layer_without_a_map_recorded_as_a_copy(store: Store) -> None:
    _edited_image(store, **{"mapped-layers": [store.at("", 1).parent.name]})


def forged_layer_recorded_as_a_copy(store: Store) -> None:
    """Add a changed layer that Podman takes for the image's copy for a container with an ID map."""
    top = store.at("", 2).parent
    forged = top.with_name("e" * 64)
    subprocess.run(["cp", "-a", top, forged], check=True)
    (forged / "diff/app").write_bytes(b"evil")
    (forged / "link").write_text("E" * 26)
    (top.parent / "l" / ("E" * 26)).symlink_to(f"../{forged.name}/diff")
    path = store.root / "overlay-layers/layers.json"
    records = json.loads(path.read_bytes())
    (record,) = [each for each in records if each["id"] == top.name]
    ids = [{"container_id": 0, "host_id": 100_000, "size": 65_536}]
    path.write_text(json.dumps([*records, {**record, "id": forged.name, "uidmap": ids, "gidmap": ids}]))
    _edited_image(store, **{"mapped-layers": [forged.name]})


def digest_of_the_manifest_changed(store: Store) -> None:
    _edited_image(store, digest="sha256:" + "e" * 64)


def layers_recorded_twice(store: Store) -> None:
    path = store.root / "overlay-layers/layers.json"
    path.with_name("volatile-layers.json").write_text(path.read_text())


def time_of_the_image_changed(store: Store) -> None:
    _edited_image(store, created="2001-01-01T00:00:00Z")


def root_closed_for_other_users(store: Store) -> None:
    """Take the rights of other users from the top layer's own folder, whose mode Podman gives to the container's root."""
    store.at("", 2).chmod(0o700)


SHOWN_ONLY: Final = "it is shown to users; no file that a container sees depends on it"
OF_RECORDS: Final[dict[Manipulation, RecordManipulation]] = {
    list_of_layers_in_other_order: found(LINKED, DifferenceKind.STACK),
    list_of_layers_emptied: found(LINKED, DifferenceKind.STACK),
    list_of_layers_removed: found(LINKED, DifferenceKind.STACK),
    list_of_layers_given_to_the_lowest: found(LINKED, DifferenceKind.STACK),
    layer_listed_twice: found(LINKED, DifferenceKind.STACK),
    layer_listed_by_an_absolute_path: found(LINKED, DifferenceKind.STACK),
    stack_link_removed: found(LINKED, DifferenceKind.STACK),
    stack_link_replaced_by_a_folder: found(LINKED, DifferenceKind.STACK),
    two_stack_links_exchanged: found(LINKED, DifferenceKind.STACK),
    stack_link_through_another_link: found(LINKED, DifferenceKind.STACK),
    list_of_layers_with_a_line_end: found(LINKED, DifferenceKind.STACK),
    short_name_with_a_line_end: found(LINKED, DifferenceKind.STACK),
    stack_link_that_no_layer_uses: harmless(LINKED, "engines follow only the links in lists of layers"),
    parent_recorded_otherwise: found(DOCKER, DifferenceKind.METADATA),
    parent_record_removed: found(DOCKER, DifferenceKind.METADATA),
    digest_recorded_otherwise: found(DOCKER, DifferenceKind.METADATA),
    two_cache_ids_exchanged: found(DOCKER, DifferenceKind.STACK),
    one_cache_id_for_two_layers: found(DOCKER, DifferenceKind.STACK),
    layer_record_removed: found(DOCKER, DifferenceKind.METADATA),
    size_recorded_otherwise: harmless(DOCKER, SHOWN_ONLY),
    blob_recorded_for_another_layer: harmless(DOCKER, "the config's digests decide which layers are used"),
    parent_image_recorded: harmless(DOCKER, SHOWN_ONLY),
    setuid_added_in_file_and_header: found(LINKED, DifferenceKind.DIGEST),
    link_retargeted_in_layer_and_header: found(LINKED, DifferenceKind.DIGEST),
    file_and_its_entry_removed: found(LINKED, DifferenceKind.DIGEST),
    whiteout_and_its_entry_removed: found(LINKED, DifferenceKind.DIGEST),
    two_tar_splits_exchanged: found(LINKED, DifferenceKind.MISSING),
    tar_split_emptied: found(LINKED, DifferenceKind.METADATA),
    tar_split_with_nothing_in_it: found(LINKED, DifferenceKind.DIGEST),
    tar_split_with_more_behind_it: found(LINKED, DifferenceKind.DIGEST),
    tar_split_of_endless_zeros: found(LINKED, DifferenceKind.METADATA),
    tar_split_compressed_again: harmless(LINKED, "the tar it describes is the same"),
    parent_of_a_layer_changed: found(PODMAN, DifferenceKind.STACK),
    digest_of_a_layer_changed: found(PODMAN, DifferenceKind.METADATA),
    size_of_a_layer_changed: harmless(PODMAN, SHOWN_ONLY),
    digest_of_the_compressed_layer_changed: harmless(PODMAN, "the digest of a blob that is not stored"),
    partial_pull_claimed: harmless(PODMAN, "the digests in the config decide"),
    image_ends_at_a_lower_layer: found(PODMAN, DifferenceKind.STACK),
    image_without_a_layer: found(PODMAN, DifferenceKind.STACK),
    layer_without_a_map_recorded_as_a_copy: harmless(PODMAN, "Podman uses only a copy with the map of the container"),
    forged_layer_recorded_as_a_copy: found(PODMAN, DifferenceKind.STACK),
    digest_of_the_manifest_changed: found(PODMAN, DifferenceKind.MANIFEST),
    layers_recorded_twice: harmless(PODMAN, "both records are the same"),
    root_closed_for_other_users: found(PODMAN, DifferenceKind.MODE),
    time_of_the_image_changed: harmless(PODMAN, SHOWN_ONLY),
}
