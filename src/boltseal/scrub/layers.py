"""One layer, checked: a job that any process can do, and its result.

A layer comes in three forms:

    tar-split   the tar is put together from the files: `content` and `attributes` are two jobs that know nothing of each other
    blob        the tar lies there: one reading of the blob, each file compared as its entry passes
    blob alone  an archive or layout: nothing is unpacked, the digests are all there is
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from io import FileIO
from pathlib import Path

from boltseal.errors import Invalid
from boltseal.oci.digest import SHA256, Digest
from boltseal.runtimes.beneath import Beneath, StoreMissing, StoreUnreadable, explained, readable
from boltseal.scrub.blobtar import BlobTar
from boltseal.scrub.comparison import LayerComparison, Ownership
from boltseal.scrub.contents import FileReader, reassemble, suspects
from boltseal.scrub.differences import Difference, Kind, difference
from boltseal.scrub.tarheader import Header, TarMalformed
from boltseal.scrub.tarsplit import entries

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
    artifact: bool = False
    """Content that is no layer: only the blob's digest is known of it."""
    ownership: Ownership = field(default_factory=Ownership)


class Part(StrEnum):
    """What of a layer a job looks at."""

    CONTENT = "content"
    ATTRIBUTES = "attributes"
    BLOB = "blob"


@dataclass(frozen=True, slots=True)
class Manner:
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


def parts(layer: LayerFiles, manner: Manner) -> list[Part]:
    """The jobs of one layer."""
    if layer.tar_split is None:
        return [Part.BLOB]
    return [Part.ATTRIBUTES] if manner.quick else [Part.CONTENT, Part.ATTRIBUTES]


def check(layer: LayerFiles, part: Part, manner: Manner, spend: Spend) -> LayerResult:
    """Do one job. Whatever the disk holds, the answer is a result."""
    name = str(layer.diff_id)
    try:
        with Beneath(layer.root / os.fsdecode(layer.folder) if layer.folder is not None else layer.root) as tree:
            if layer.folder is not None:
                _reached_without_links(layer)
            if part is Part.CONTENT:
                return _content(layer, tree, manner, spend)
            if part is Part.ATTRIBUTES:
                return _attributes(layer, tree)
            return _blob(layer, tree if layer.folder is not None else None, manner, spend)
    except StoreMissing as error:
        found = difference(Kind.MISSING, b"", "there", error.message, name)
        return LayerResult(layer.diff_id, (found,), 1)
    except StoreUnreadable as error:
        return LayerResult(layer.diff_id, unknown=(error.message,))
    except Invalid as error:
        found = difference(Kind.METADATA, b"", "what an engine writes", error.message, name)
        return LayerResult(layer.diff_id, (found,), 1)


def _reached_without_links(layer: LayerFiles) -> None:
    """The layer's folder must be one, and so must each folder above it up to the store's root."""
    with Beneath(layer.root) as store:
        store.folder(layer.folder or b"")


def _content(layer: LayerFiles, tree: Beneath, manner: Manner, spend: Spend) -> LayerResult:
    assert layer.tar_split is not None  # noqa: S101 - `parts` says so
    files = FileReader(tree, spend, from_disk=manner.from_disk)
    name = str(layer.diff_id)
    with Beneath(layer.root) as store, store.opened(layer.tar_split) as fd, open(fd, "rb", closefd=False) as split:
        made = reassemble(split, files)
        if made.digest == layer.diff_id.hex:
            return LayerResult(layer.diff_id)
        found = [
            difference(Kind.CONTENT, path, "the file of the layer", why, name) for path, why in made.broken.items()
        ]
        os.lseek(fd, 0, os.SEEK_SET)
        named = [
            difference(Kind.CONTENT, path, "the content of the layer", "other content", name)
            for path in suspects(split, files)
            if path not in made.broken
        ]
    unknown = list(made.unreadable)
    if made.mapless and not (found or named):
        unknown.append(
            f"{len(made.mapless)} sparse files (GNU 1.0), whose map no engine keeps, are in layer {layer.diff_id.short}: "
            "their checksums hold, but no digest can be computed"
        )
    found += named
    if made.digest is not None and not named:
        expected, got = (
            str(layer.diff_id),
            f"sha256:{made.digest}, though each file has the checksum in tar-split: that is forged",
        )
        found.append(difference(Kind.DIGEST, b"", expected, got, name))
    return LayerResult(layer.diff_id, tuple(found), len(found), tuple(unknown))


def _attributes(layer: LayerFiles, tree: Beneath) -> LayerResult:
    assert layer.tar_split is not None  # noqa: S101 - `parts` says so
    comparison = LayerComparison(tree, str(layer.diff_id), layer.ownership)
    with Beneath(layer.root) as store, store.opened(layer.tar_split) as fd, open(fd, "rb", closefd=False) as split:
        for header, _ in entries(split):
            comparison.entry(header)
    comparison.finish()
    return _result(layer, comparison)


def _result(layer: LayerFiles, comparison: LayerComparison, more: tuple[Difference, ...] = ()) -> LayerResult:
    found = comparison.findings
    return LayerResult(
        layer.diff_id,
        (*more, *found.all()),
        found.count + len(more),
        tuple(found.unreadable),
        comparison.entries,
        frozenset(comparison.opaque_unexpected),
    )


def _blob(layer: LayerFiles, tree: Beneath | None, manner: Manner, spend: Spend) -> LayerResult:
    assert layer.blob is not None  # noqa: S101 - a layer without a tar-split has one
    name, digest = str(layer.diff_id), layer.blob_digest
    comparison = LayerComparison(tree, name, layer.ownership) if tree is not None else None
    wrong: list[Difference] = []
    with (
        Beneath(layer.root) as store,
        store.opened(layer.blob) as fd,
        open(fd, "rb", closefd=False, buffering=0) as raw,
    ):
        if manner.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        file = _Window(raw, layer.blob_start, layer.blob_size)
        tar = BlobTar(file, digest.algorithm if digest else SHA256, spend)
        try:
            if not layer.artifact:
                _unpack(tar, comparison, FileReader(tree or store, spend, from_disk=manner.from_disk), manner, name)
        except TarMalformed as error:
            wrong.append(difference(Kind.CONTENT, b"", "a whole layer", error.message, name))
        for piece in iter(lambda: file.read(1 << 20), b""):  # what is left: artifacts, and what follows damage
            spend(len(piece))
            tar.skip(piece)
        if manner.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if digest is not None and tar.digest != digest:
        wrong.insert(0, difference(Kind.DIGEST, b"", digest, tar.digest, name))
    elif not layer.artifact and tar.diff_id != layer.diff_id.hex and not wrong:
        wrong.append(difference(Kind.DIGEST, b"", f"uncompressed {layer.diff_id}", f"sha256:{tar.diff_id}", name))
    if comparison is None:
        return LayerResult(layer.diff_id, tuple(wrong), len(wrong))
    return _result(layer, comparison, tuple(wrong))


def _unpack(tar: BlobTar, comparison: LayerComparison | None, files: FileReader, manner: Manner, name: str) -> None:
    """Goes through the tar; where the layer was unpacked, each entry is compared as it passes. TarMalformed."""
    if comparison is None:
        tar.drain()
        return
    for header in tar.entries():
        comparison.entry(header, None if manner.quick else _content_of(tar, files, comparison, name))
    comparison.finish()


def _content_of(
    tar: BlobTar, files: FileReader, comparison: LayerComparison, name: str
) -> Callable[[bytes, os.stat_result, Header], None]:
    def compare(path: bytes, found: os.stat_result, header: Header) -> None:
        fd, before = files.open(path)
        try:
            same = _same(fd, tar, header)
            after = os.fstat(fd)
        except OSError as error:
            raise explained(error, readable(path)) from error
        finally:
            files.close(fd)
        if not same:
            comparison.findings.add(
                difference(Kind.CONTENT, path, "the content of the layer", "other content", name), path
            )
        if (before.st_ino, before.st_mtime_ns, before.st_ctime_ns) != (
            after.st_ino,
            after.st_mtime_ns,
            after.st_ctime_ns,
        ):
            raise StoreUnreadable(f"{readable(path)} changes while it is read")

    return compare


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
