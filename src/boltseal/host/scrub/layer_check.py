"""One layer, checked: a job that any process can do, and its result.

A layer comes in three forms:

    tar-split   the tar is put together from its headers and the files; each entry is compared as it passes
    blob        the tar lies there: one reading of the blob, each entry and its content compared as they pass
    blob alone  an archive or layout: nothing is unpacked, the digests are all there is
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable
from boltseal.errors import Invalid
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.fast_path import make_fast_path
from boltseal.host.scrub.file_contents import FileReader, LayerDigester, suspects, written_since
from boltseal.host.scrub.layer_blob import BlobTar
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.mount_points import mounts_in_layer
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import Header, TarMalformed
from boltseal.host.scrub.tar_split import entries
from boltseal.oci.digest import SHA256, Digest

Spend = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """Where a layer lies. Paths are relative to `root`; what is not there in this kind of store is None.

    `blob_start`, `blob_size`: where in the file `blob` it lies, for archives; size -1: to the end.
    """

    root: Path
    diff_id: Digest
    folder: bytes | None = None
    tar_split: bytes | None = None
    blob: bytes | None = None
    blob_digest: Digest | None = None
    blob_start: int = 0
    blob_size: int = -1
    said_size: int = -1
    """How long the manifest says that the blob is; -1: nobody says it."""
    artifact: bool = False
    """Content that is no layer: only the blob's digest is known of it."""
    ownership: Ownership = field(default_factory=Ownership)
    hint: int = 0
    """About how many bytes there are to read, by the store's word: only to share the work out."""


@dataclass(frozen=True, slots=True)
class CheckMode:
    """How it is read. `quick`: no content, so that nothing is proven by a digest."""

    quick: bool = False
    from_disk: bool = False


@dataclass(frozen=True, slots=True)
class LayerResult:
    """`count`: of all differences, `differences` may be fewer. `unknown`: what could not be checked, and why."""

    diff_id: Digest
    differences: tuple[Difference, ...] = ()
    count: int = 0
    unknown: tuple[str, ...] = ()
    entries: int = 0
    opaque: frozenset[bytes] = frozenset()
    """Folders with an opaque mark that the tar does not have; harmless where no lower layer has the folder."""


def check(layer: LayerFiles, manner: CheckMode, spend: Spend) -> LayerResult:
    """Do one job. Whatever the disk holds, the answer is a result."""
    if layer.folder is None:
        return _check(layer, manner, spend)
    mounted, unknown = _mounted(layer.root, layer.folder, str(layer.diff_id))
    result = _check(layer, manner, spend)
    since, unknown_since = _mounted(layer.root, layer.folder, str(layer.diff_id))
    known = set(result.differences)
    more = [each for each in dict.fromkeys((*mounted, *since)) if each not in known]
    return replace(
        result,
        differences=(*more, *result.differences),
        count=result.count + len(more),
        unknown=(*result.unknown, *dict.fromkeys((*unknown, *unknown_since))),
    )


def _mounted(root: Path, folder: bytes, name: str) -> tuple[list[Difference], list[str]]:
    """What is mounted in a layer's folder, and why that could not be seen."""
    try:
        return mounts_in_layer(root, folder, name), []
    except (StoreMissing, StoreMalformed):
        return [], []  # the check of the files reports it
    except StoreUnreadable as error:
        return [], [error.message]


def _check(layer: LayerFiles, manner: CheckMode, spend: Spend) -> LayerResult:
    name = str(layer.diff_id)
    try:
        with SafeFolder(layer.root) as store:
            if layer.folder is None:
                return _blob(layer, store, None, manner, spend)
            with store.below(layer.folder) as tree:
                if layer.tar_split is not None:
                    return _split(layer, store, tree, manner, spend)
                return _blob(layer, store, tree, manner, spend)
    except StoreMissing as error:
        found = difference(DifferenceKind.MISSING, b"", "there", error.message, name)
        return LayerResult(layer.diff_id, (found,), 1)
    except StoreUnreadable as error:
        return LayerResult(layer.diff_id, unknown=(error.message,))
    except Invalid as error:
        found = difference(DifferenceKind.METADATA, b"", "what an engine writes", error.message, name)
        return LayerResult(layer.diff_id, (found,), 1)
    except OSError as error:  # of a disk that does not give its bytes
        return LayerResult(layer.diff_id, unknown=(explained(error, f"layer {layer.diff_id.short}").message,))


def _split(layer: LayerFiles, store: SafeFolder, tree: SafeFolder, manner: CheckMode, spend: Spend) -> LayerResult:
    """A layer with a tar-split. TarMalformed, StoreMissing and its like."""
    assert layer.tar_split is not None  # noqa: S101 - asked before
    files, began_ns = FileReader(tree, spend, from_disk=manner.from_disk), time.time_ns()
    comparison = LayerComparison(tree, str(layer.diff_id), layer.ownership, files)
    with store.opened(layer.tar_split) as fd, open(fd, "rb", closefd=False) as split:
        if manner.quick:
            for _, header in entries(split):
                if header is not None:
                    comparison.entry(header)
            comparison.finish()
            return _result(layer, comparison)
        tape, missed = LayerDigester(files), False
        for raw, header in entries(split, make_fast_path(comparison, tape)):
            tape.write(raw)
            if header is not None:
                fed = tape.fed
                comparison.entry(header, tape.add_file)
                missed = missed or (header.size > 0 and tape.fed == fed)
        comparison.finish()
        digest = tape.digest()
        if digest == layer.diff_id.hex:
            return _result(layer, comparison)
        os.lseek(fd, 0, os.SEEK_SET)
        found = dict(suspects(split, tape.files, began_ns)) | tape.broken
    more = [
        difference(DifferenceKind.CONTENT, path, "the content of the layer", got, str(layer.diff_id))
        for path, got in found.items()
    ]
    return _unproven(layer, comparison, tape, None if missed or tape.broken else digest, more)


def _unproven(
    layer: LayerFiles, comparison: LayerComparison, tape: LayerDigester, digest: str | None, more: list[Difference]
) -> LayerResult:
    """A layer that does not have its digest. `digest`: None where a file was missing in it. `more`: whose fault that is."""
    if digest is None or more or comparison.findings.unreadable:
        return _result(layer, comparison, tuple(more))
    if tape.mapless or tape.guessed:
        why = (
            f"sparse files (GNU 1.0), whose map no engine keeps, are in layer {layer.diff_id.short}: "
            "their checksums hold, but no digest can be computed"
        )
        return _result(layer, comparison, unknown=(why,))
    got = f"sha256:{digest}, though each file has the checksum in tar-split: that is forged"
    return _result(
        layer, comparison, (difference(DifferenceKind.DIGEST, b"", str(layer.diff_id), got, str(layer.diff_id)),)
    )


def _result(
    layer: LayerFiles,
    comparison: LayerComparison,
    more: tuple[Difference, ...] = (),
    unknown: tuple[str, ...] = (),
) -> LayerResult:
    found = comparison.findings
    return LayerResult(
        layer.diff_id,
        (*more, *found.all()),
        found.count + len(more),
        (*unknown, *found.unreadable),
        comparison.entries,
        frozenset(comparison.opaque_unexpected),
    )


def _blob(
    layer: LayerFiles, store: SafeFolder, tree: SafeFolder | None, manner: CheckMode, spend: Spend
) -> LayerResult:
    """A layer whose blob lies there, unpacked (`tree`) or not."""
    assert layer.blob is not None  # noqa: S101 - a layer without a tar-split has one
    name, digest = str(layer.diff_id), layer.blob_digest
    files = FileReader(tree or store, spend, from_disk=manner.from_disk)
    comparison = LayerComparison(tree, name, layer.ownership, files) if tree is not None else None
    wrong: list[Difference] = []
    with store.opened(layer.blob) as fd, open(fd, "rb", closefd=False, buffering=0) as raw:
        if manner.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = layer.blob_size if layer.blob_size >= 0 else os.fstat(fd).st_size
        if 0 <= layer.said_size < size:  # a file with a hole costs nothing to make, and hours to read
            wrong.append(difference(DifferenceKind.SIZE, b"", f"a blob of {layer.said_size} bytes", size, name))
            size = layer.said_size
        file = _Window(raw, layer.blob_start, size)
        tar = BlobTar(file, digest.algorithm if digest else SHA256, spend)
        try:
            if not layer.artifact:
                _unpack(tar, comparison, manner)
        except TarMalformed as error:
            wrong.append(difference(DifferenceKind.CONTENT, b"", "a whole layer", error.message, name))
        for piece in iter(lambda: file.read(1 << 20), b""):  # what is left: artifacts, and what follows damage
            spend(len(piece))
            tar.skip(piece)
        if manner.from_disk:
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


def _unpack(tar: BlobTar, comparison: LayerComparison | None, manner: CheckMode) -> None:
    """Goes through the tar; where the layer was unpacked, each entry is compared as it passes. TarMalformed."""
    if comparison is None:
        tar.drain()
        return

    def content(path: bytes, fd: int, before: os.stat_result, header: Header) -> None:
        if _same(fd, tar, header):
            return
        if written_since(before, os.fstat(fd)):
            raise StoreUnreadable(f"{readable(path)} is a file that changes while it is read")
        comparison.differs(path)

    for header in tar.entries():
        comparison.entry(header, None if manner.quick else content)
    comparison.finish()


def _same(fd: int, tar: BlobTar, header: Header) -> bool:
    """Whether a file of the right size holds what the tar has. Stops at the first piece that differs."""
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
    """A part of a file, as a file that can only be read."""

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
