"""Checks one layer: a job that any process can run.

A layer is checked by one of four sources:

    tar-split   the tar is reassembled from its headers and the files; each entry is compared on the way
    blob        the tar is stored: the blob is read once, and each entry with its content is compared on the way
    inventory   the store has neither: each file is compared with what a signed baseline recorded
    blob alone  an archive or layout: nothing is unpacked, so only the digests are checked
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Final

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable
from boltseal.errors import Invalid
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.fast_path import make_fast_path
from boltseal.host.scrub.file_contents import CountRead, FileReader, LayerDigester, suspects, written_since
from boltseal.host.scrub.implied_folders import ImpliedFolderCheck, ImpliedFolders
from boltseal.host.scrub.inodes import SharedInode
from boltseal.host.scrub.inventory import compare_with_inventory
from boltseal.host.scrub.layer_blob import BlobTar
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.layer_inventory import Inventory
from boltseal.host.scrub.mount_points import mounts_in_layer
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import Header, TarMalformed
from boltseal.host.scrub.tar_split import entries
from boltseal.host.scrub.unpacking_rules import DOCKER, UnpackingRules
from boltseal.host.scrub.vfs_layer import VfsComparison, VfsLayer
from boltseal.oci.digest import SHA256, Digest

BLOBS_UNREAD: Final = "blobs of layers (--quick does not read them)"
FILES_UNLISTED: Final = "unpacked files (they are listed only in the layers' blobs, which --quick does not read)"


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """The files of a layer. Paths are relative to `root`, and None if this kind of store does not have them.

    `blob_start`, `blob_size`: the blob's part of the file `blob` in an archive, in bytes; size -1: to the end of the file.
    `manifest_size`: the blob's size in the manifest, -1 if unknown. `artifact`: the content is not a layer, so only the
    blob's digest is checked. `unprovable`: why the store itself can't prove the files, "" if it can; then `inventory` is what a
    baseline recorded, if there is one. `hint`: roughly how many bytes to read, from the store's metadata; it only distributes
    the work.
    `implied`: how the engine created folders without an entry. `rules`: how it unpacked the others.
    `vfs`: for the storage driver vfs, whose folders have the files of all layers below too.
    """

    root: Path
    diff_id: Digest
    folder: bytes | None = None
    tar_split: bytes | None = None
    blob: bytes | None = None
    blob_digest: Digest | None = None
    blob_start: int = 0
    blob_size: int = -1
    manifest_size: int = -1
    artifact: bool = False
    ownership: Ownership = field(default_factory=Ownership)
    hint: int = 0
    implied: ImpliedFolders = field(default_factory=ImpliedFolders)
    rules: UnpackingRules = DOCKER
    vfs: VfsLayer | None = None
    unprovable: str = ""
    inventory: Inventory | None = None


@dataclass(frozen=True, slots=True)
class CheckMode:
    """How files are read. `quick`: without contents, so no digest is verified. `from_disk`: bypass the page cache."""

    quick: bool = False
    from_disk: bool = False


@dataclass(frozen=True, slots=True)
class LayerResult:
    """The result for one layer.

    `count`: the number of all differences; `differences` may have fewer. `unknown`: reasons why something was not checked. `opaque`:
    folders with an opaque mark that is not in the tar; harmless if no lower layer has the folder. `unchecked`: what this kind of
    check leaves out for this kind of store. `shared`: files that may have names outside of the store's layers.
    """

    diff_id: Digest
    differences: tuple[Difference, ...] = ()
    count: int = 0
    unknown: tuple[str, ...] = ()
    entries: int = 0
    opaque: frozenset[bytes] = frozenset()
    unchecked: tuple[str, ...] = ()
    shared: tuple[SharedInode, ...] = ()


def check(layer: LayerFiles, check_mode: CheckMode, count_read: CountRead) -> LayerResult:
    """Check one layer; malformed or unreadable content is part of the result, never raised."""
    if layer.folder is None:
        return _check(layer, check_mode, count_read)
    mounted, unknown = _mounted(layer.root, layer.folder, str(layer.diff_id))
    result = _check(layer, check_mode, count_read)
    since, unknown_since = _mounted(layer.root, layer.folder, str(layer.diff_id))
    known = set(result.differences)
    more = [each for each in dict.fromkeys((*mounted, *since)) if each not in known]
    return replace(
        result,
        differences=(*more, *result.differences),
        count=result.count + len(more),
        unknown=(*result.unknown, *dict.fromkeys((*unknown, *unknown_since, *_unproven_owners(layer)))),
    )


def _mounted(root: Path, folder: bytes, name: str) -> tuple[list[Difference], list[str]]:
    """Return the mounts in a layer's folder, and the reason if they could not be listed."""
    try:
        return mounts_in_layer(root, folder, name), []
    except (StoreMissing, StoreMalformed):
        return [], []  # the check of the files reports it
    except StoreUnreadable as error:
        return [], [error.message]


def _unproven_owners(layer: LayerFiles) -> tuple[str, ...]:
    return (layer.ownership.unproven,) if layer.ownership.unproven else ()


def _check(layer: LayerFiles, check_mode: CheckMode, count_read: CountRead) -> LayerResult:
    name = str(layer.diff_id)
    try:
        with open_store(layer.root) as store:
            by_blob = _blob_unread if check_mode.quick else _blob
            if layer.folder is None:
                return by_blob(layer, store, None, check_mode, count_read)
            with store.below(layer.folder) as tree:
                tree.stay_in_mount()
                if layer.unprovable:
                    return _recorded(layer, tree, check_mode, count_read)
                how = _split if layer.tar_split is not None else by_blob
                return how(layer, store, tree, check_mode, count_read)
    except StoreMissing as error:
        found = difference(DifferenceKind.MISSING, b"", "there", error.message, name)
        return LayerResult(layer.diff_id, (found,), 1)
    except StoreUnreadable as error:
        return LayerResult(layer.diff_id, unknown=(error.message,))
    except Invalid as error:
        found = difference(DifferenceKind.METADATA, b"", "what an engine writes", error.message, name)
        return LayerResult(layer.diff_id, (found,), 1)
    except OSError as error:  # a read error of the disk
        return LayerResult(layer.diff_id, unknown=(explained(error, f"layer {layer.diff_id.short}").message,))


def _split(
    layer: LayerFiles, store: SafeFolder, tree: SafeFolder, check_mode: CheckMode, count_read: CountRead
) -> LayerResult:
    """Check a layer with a tar-split.

    Raises: TarMalformed, StoreMissing, StoreUnreadable, StoreMalformed, OSError.
    """
    assert layer.tar_split is not None  # noqa: S101 - checked by the caller
    files, began_ns = FileReader(tree, count_read, from_disk=check_mode.from_disk), time.time_ns()
    with (
        _comparison(layer, store, files, check_mode) as comparison,
        store.opened(layer.tar_split) as fd,
        open(fd, "rb", closefd=False) as split,
    ):
        if check_mode.quick:
            for _, header in entries(split):
                if header is not None:
                    comparison.entry(header)
            comparison.finish()
            return _result(layer, comparison)
        digester, missed = LayerDigester(files), False
        for raw, header in entries(split, make_fast_path(comparison, digester)):
            digester.write(raw)
            if header is not None:
                fed = digester.fed
                comparison.entry(header, digester.add_file)
                missed = missed or (header.size > 0 and digester.fed == fed)
        comparison.finish()
        digest = digester.digest()
        if digest == layer.diff_id.hex:
            return _result(layer, comparison)
        os.lseek(fd, 0, os.SEEK_SET)
        found = dict(suspects(split, digester.files, began_ns, comparison.located)) | digester.broken
    more = [
        difference(DifferenceKind.CONTENT, path, "the content of the layer", got, str(layer.diff_id))
        for path, got in found.items()
    ]
    return _unproven(layer, comparison, digester, None if missed or digester.broken else digest, more)


@contextmanager
def _comparison(
    layer: LayerFiles, store: SafeFolder, files: FileReader, check_mode: CheckMode
) -> Iterator[LayerComparison]:
    """Open the folder of the layer below, for the driver that copies it, and return the comparison for the driver."""
    if (vfs := layer.vfs) is None:
        yield _of_overlay(layer, files)
        return
    with nullcontext() if vfs.below is None else store.below(vfs.below) as below:
        name, implied, quick = str(layer.diff_id), _implied(layer, files.tree), check_mode.quick
        yield VfsComparison(files.tree, name, layer.ownership, files, layer.rules, implied, below, vfs, quick=quick)


def _of_overlay(layer: LayerFiles, files: FileReader) -> LayerComparison:
    implied = _implied(layer, files.tree)
    return LayerComparison(files.tree, str(layer.diff_id), layer.ownership, files, layer.rules, implied)


def _implied(layer: LayerFiles, tree: SafeFolder) -> ImpliedFolderCheck:
    return ImpliedFolderCheck(layer.root, layer.implied, tree, layer.ownership)


def _recorded(layer: LayerFiles, tree: SafeFolder, check_mode: CheckMode, count_read: CountRead) -> LayerResult:
    """Compare a layer with its inventory in a baseline.

    Raises: TarMalformed, StoreMissing, StoreUnreadable, StoreMalformed, OSError.
    """
    if layer.inventory is None:
        return LayerResult(layer.diff_id, unknown=(layer.unprovable,))
    files = FileReader(tree, count_read, from_disk=check_mode.from_disk)
    comparison = _of_overlay(layer, files)
    compare_with_inventory(layer.inventory.lines(), comparison, quick=check_mode.quick)
    return _result(layer, comparison)


def _unproven(
    layer: LayerFiles, comparison: LayerComparison, digester: LayerDigester, digest: str | None, more: list[Difference]
) -> LayerResult:
    """Return the result of a layer with a wrong digest. `digest`: None if a file was missing. `more`: the changed files."""
    if digest is None or more or comparison.findings.unreadable:
        return _result(layer, comparison, tuple(more))
    if digester.mapless or digester.guessed:
        why = (
            f"layer {layer.diff_id.short} has sparse files (GNU 1.0), whose map engines do not store: their checksums match, "
            "but its digest can't be computed"
        )
        return _result(layer, comparison, unknown=(why,))
    got = f"sha256:{digest}, though each file has its checksum in tar-split, which is therefore forged"
    return _result(
        layer, comparison, (difference(DifferenceKind.DIGEST, b"", str(layer.diff_id), got, str(layer.diff_id)),)
    )


def _result(
    layer: LayerFiles,
    comparison: LayerComparison,
    more: tuple[Difference, ...] = (),
    unknown: tuple[str, ...] = (),
) -> LayerResult:
    found, shared = comparison.findings, tuple(comparison.inodes.shared())
    return LayerResult(
        layer.diff_id,
        (*more, *found.all()),
        found.count + len(more),
        (*unknown, *found.unreadable),
        comparison.entries,
        frozenset(comparison.opaque_unexpected),
        shared=shared,
    )


def _blob(
    layer: LayerFiles, store: SafeFolder, tree: SafeFolder | None, check_mode: CheckMode, count_read: CountRead
) -> LayerResult:
    """Check a layer that is stored as a blob, unpacked (`tree`) or not."""
    assert layer.blob is not None  # noqa: S101 - a layer without a tar-split has a blob
    name, digest = str(layer.diff_id), layer.blob_digest
    files = FileReader(tree or store, count_read, from_disk=check_mode.from_disk)
    comparison = _of_overlay(layer, files) if tree is not None else None
    wrong: list[Difference] = []
    with store.opened(layer.blob) as fd, open(fd, "rb", closefd=False, buffering=0) as raw:
        if check_mode.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = layer.blob_size if layer.blob_size >= 0 else os.fstat(fd).st_size
        if 0 <= layer.manifest_size < size:  # a sparse file is free to create and takes hours to read
            wrong.append(difference(DifferenceKind.SIZE, b"", f"a blob of {layer.manifest_size} bytes", size, name))
            size = layer.manifest_size
        file = _Window(raw, layer.blob_start, size)
        tar = BlobTar(file, digest.algorithm if digest else SHA256, count_read)
        try:
            if not layer.artifact:
                _unpack(tar, comparison)
        except TarMalformed as error:
            wrong.append(difference(DifferenceKind.CONTENT, b"", "a whole layer", error.message, name))
        for piece in iter(lambda: file.read(1 << 20), b""):  # the rest: artifacts, and everything after damage
            count_read(len(piece))
            tar.skip(piece)
        if check_mode.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if digest is not None and tar.digest != digest:
        wrong.insert(0, difference(DifferenceKind.DIGEST, b"", digest, tar.digest, name))
    elif not layer.artifact and tar.diff_id != layer.diff_id.hex and not wrong:
        wrong.append(
            difference(DifferenceKind.DIGEST, b"", f"uncompressed {layer.diff_id}", f"sha256:{tar.diff_id}", name)
        )
    if comparison is None:
        return LayerResult(layer.diff_id, tuple(wrong), len(wrong))
    return _result(layer, comparison, tuple(wrong))


def _blob_unread(
    layer: LayerFiles, store: SafeFolder, tree: SafeFolder | None, check_mode: CheckMode, count_read: CountRead
) -> LayerResult:
    """Check a layer's blob by its size, and the folder it was unpacked into without its files: their list is in the blob."""
    assert layer.blob is not None  # noqa: S101 - checked by the caller
    name, wrong = str(layer.diff_id), []
    size = layer.blob_size if layer.blob_size >= 0 else store.stat(layer.blob).st_size
    if layer.manifest_size not in (-1, size):
        wrong.append(difference(DifferenceKind.SIZE, b"", f"a blob of {layer.manifest_size} bytes", size, name))
    if tree is None:
        return LayerResult(layer.diff_id, tuple(wrong), len(wrong), unchecked=(BLOBS_UNREAD,))
    files = FileReader(tree, count_read, from_disk=check_mode.from_disk)
    comparison = _of_overlay(layer, files)
    comparison.root()
    return replace(_result(layer, comparison, tuple(wrong)), unchecked=(FILES_UNLISTED,))


def _unpack(tar: BlobTar, comparison: LayerComparison | None) -> None:
    """Read the tar, and compare each entry if the layer is unpacked.

    Raises: TarMalformed, StoreUnreadable.
    """
    if comparison is None:
        tar.drain()
        return

    def content(path: bytes, fd: int, before: os.stat_result, header: Header) -> None:
        if _same(fd, tar, header):
            return
        if written_since(before, os.fstat(fd)):
            raise StoreUnreadable(f"{readable(path)} changed while it was read")
        comparison.differs(path)

    for header in tar.entries():
        comparison.entry(header, content)
    comparison.finish()


def _same(fd: int, tar: BlobTar, header: Header) -> bool:
    """Return whether a file of the right size has the content in the tar; stops at the first difference."""
    if header.sparse is not None:
        return _same_sparse(fd, tar, header)
    return all(_read_exactly(fd, len(piece)) == piece for piece in tar.content())


def _read_exactly(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


def _same_sparse(fd: int, tar: BlobTar, header: Header) -> bool:
    pieces = tar.sparse_map() if header.sparse == () else header.sparse or ()
    at = 0
    for offset, length in (*pieces, (header.size, 0)):
        if offset < at or not _zeros(fd, at, offset - at):
            return False
        at = offset
        for piece in tar.exactly(length):
            if os.pread(fd, len(piece), at) != piece:
                return False
            at += len(piece)
    return at == header.size


def _zeros(fd: int, at: int, size: int) -> bool:
    while size > 0:
        data = os.pread(fd, min(size, 1 << 20), at)
        if not data or any(data):
            return False
        at += len(data)
        size -= len(data)
    return True


class _Window:
    """A read-only view of a part of a file."""

    def __init__(self, raw: FileIO, start: int, size: int) -> None:
        self._raw = raw
        self._left = size
        raw.seek(start)

    def read(self, limit: int) -> bytes:
        if self._left >= 0:
            limit = min(limit, self._left)
        data = self._raw.read(limit) or b""
        if self._left >= 0:
            self._left -= len(data)
        return data
