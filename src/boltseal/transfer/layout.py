"""A folder in the OCI image layout (image-spec "image-layout.md") as a source and target.

    DIR/oci-layout                 {"imageLayoutVersion": "1.0.0"}
    DIR/index.json                 an index; the annotation org.opencontainers.image.ref.name is an entry's name
    DIR/blobs/ALGORITHM/HEX        manifests, configs and layers, each under its digest
    DIR/blobs/.arriving-*          a blob that is being written; it is renamed when its digest is verified

All content is verified when it is read, so the folder need not be trusted. An interrupted copy leaves complete blobs, which
the next copy finds. Each manifest with a name or subject replaces index.json by a rename. flock allows one writer at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any, Final

from boltseal.client.background_hash import BackgroundHash
from boltseal.errors import quote
from boltseal.oci.annotations import REF_NAME
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, ManifestInvalid, parse_manifest
from boltseal.oci.mediatype import MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST
from boltseal.transfer.protocols import (
    BlobTransfer,
    Body,
    ContentDamaged,
    LocationInvalid,
    LocationNotFound,
    LocationUnavailable,
)

PIECE_BYTES: Final = 1024 * 1024
MAX_MANIFEST_BYTES: Final = 8 * 1024 * 1024
_EMPTY: Final = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


class LayoutLocation:
    """An OCI image layout as source and target. The first write creates it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.title = f"oci:{folder}"

    async def resolve(self, name: str | None) -> Digest:
        """Resolve a name by index.json. Raises: LocationNotFound, also without a name when there are several images."""
        entries = self._entries()
        if name is not None:
            found = [e for e in entries if e.annotations.get(REF_NAME) == name or str(e.digest) == name]
        else:
            found = [e for e in entries if REF_NAME in e.annotations] or list(entries)
        digests = {entry.digest for entry in found}
        if len(digests) == 1:
            return digests.pop()
        there = ", ".join(sorted({e.annotations.get(REF_NAME, e.digest.short) for e in entries})) or "nothing"
        raise LocationNotFound(f"{self.title} has no single image {quote(name or 'without a name')}; there is: {there}")

    async def manifest(self, digest: Digest) -> Manifest:
        """Read a manifest from its blob. Raises: LocationNotFound, ContentDamaged."""
        raw = self._document(self._path(digest), f"manifest {digest.short}")
        if Digest.of(raw, digest.algorithm) != digest:
            raise ContentDamaged(f"{self.title}: the bytes of manifest {digest.short} have another digest")
        return read_manifest(raw, self._type_of(digest), f"{self.title}: {digest.short}")

    async def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob's file. Raises: LocationNotFound, ContentDamaged."""
        with self._opened(self._path(descriptor.digest), f"blob {descriptor.digest.short}") as file:
            async for piece in verified(file, descriptor, self.title):
                yield piece

    async def names(self) -> list[str]:
        """Return the names in index.json, each once."""
        return list(dict.fromkeys(e.annotations[REF_NAME] for e in self._entries() if REF_NAME in e.annotations))

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the entries of index.json whose subject is this manifest."""
        found = []
        for entry in self._entries():
            if entry.media_type in MANIFEST_TYPES:
                subject = (await self.manifest(entry.digest)).subject
                if subject is not None and subject.digest == digest:
                    found.append(entry)
        return tuple(found)

    async def current_digest(self, name: str) -> Digest | None:
        """Return the digest of a name in index.json; None without an entry or without a layout."""
        if not (self._folder / "index.json").exists():
            return None
        return next((e.digest for e in self._entries() if e.annotations.get(REF_NAME) == name), None)

    async def put_blob(self, descriptor: Descriptor, body: Body) -> BlobTransfer:
        """Write a blob to a temporary file and rename it. An existing file of the same size is kept."""
        path = self._path(descriptor.digest)
        if path.exists() and path.stat().st_size == descriptor.size:
            return BlobTransfer.PRESENT
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _arriving(path, self._folder / "blobs") as file:
                async for piece in body():
                    await asyncio.to_thread(file.write, piece)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        return BlobTransfer.SENT

    async def put_manifest(self, manifest: Manifest, digest: Digest, name: str | None, *, only_new: bool) -> None:
        """Write the manifest's blob, and an entry in index.json if it has a name or a subject."""
        with self._writing():
            path = self._path(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, manifest.raw)
            if name is not None or manifest.subject is not None:
                with self._lock():
                    self._enter(manifest, digest, name)

    async def close(self, *, complete: bool) -> None:
        """Do nothing: complete blobs stay, so that the next copy can resume."""

    def _enter(self, manifest: Manifest, digest: Digest, name: str | None) -> None:
        index = self._index() if (self._folder / "index.json").exists() else json.loads(json.dumps(_EMPTY))
        entry: dict[str, Any] = {"mediaType": manifest.media_type, "digest": str(digest), "size": len(manifest.raw)}
        if manifest.subject is not None and manifest.artifact_type:
            entry["artifactType"] = manifest.artifact_type
        if name is not None:
            entry["annotations"] = {REF_NAME: name}
        kept = [each for each in index["manifests"] if not _replaced(each, entry, name)]
        replace_file(self._folder / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        index["manifests"] = [*kept, entry]
        replace_file(self._folder / "index.json", json.dumps(index, separators=(",", ":")).encode())

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _index(self) -> dict[str, Any]:
        raw = self._document(self._folder / "index.json", "index.json")
        read_manifest(raw, OCI_INDEX, f"{self.title}: index.json")
        found: dict[str, Any] = json.loads(raw)
        found["manifests"] = found.get("manifests") or []
        return found

    def _entries(self) -> tuple[Descriptor, ...]:
        if not (self._folder / "oci-layout").exists():
            raise LocationNotFound(f"{self.title}: there is no OCI image layout in this folder")
        raw = self._document(self._folder / "index.json", "index.json")
        return read_manifest(raw, OCI_INDEX, f"{self.title}: index.json").manifests

    def _type_of(self, digest: Digest) -> str | None:
        return next((e.media_type for e in self._entries() if e.digest == digest), None)

    def _path(self, digest: Digest) -> Path:
        return self._folder / "blobs" / digest.algorithm / digest.hex

    def _document(self, path: Path, what: str) -> bytes:
        with self._opened(path, what) as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ContentDamaged(f"{self.title}: {what} has more than {MAX_MANIFEST_BYTES // 2**20} MiB: not read")
        return raw

    def _opened(self, path: Path, what: str) -> IO[bytes]:
        """Open a plain file of the layout. The layout is untrusted: opening a pipe would block for ever."""
        with self._reading(what):
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise LocationInvalid(f"{self.title}: {what} is not a regular file")
        return file

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise LocationNotFound(f"{self.title} has no {what}") from error
        except OSError as error:
            raise LocationUnavailable(f"{self.title}: {what} can't be read: {error.strerror}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LocationUnavailable(f"{self.title} can't be written: {error.strerror}") from error


def _replaced(held: dict[str, Any], entry: dict[str, Any], name: str | None) -> bool:
    its_name = (held.get("annotations") or {}).get(REF_NAME)
    if name is not None:
        return bool(its_name == name)
    return its_name is None and held.get("digest") == entry["digest"]


def read_manifest(raw: bytes, media_type: str | None, what: str) -> Manifest:
    """Parse a manifest whose type may be stated only in its index (`media_type`). Raises: LocationInvalid."""
    try:
        document = json.loads(raw)
        guess = OCI_INDEX if "manifests" in document else OCI_MANIFEST
        return parse_manifest(raw, document.get("mediaType") or media_type or guess)
    except (ValueError, AttributeError, RecursionError) as error:
        raise LocationInvalid(f"{what} is not JSON") from error
    except ManifestInvalid as error:
        raise LocationInvalid(f"{what}: {error.message}") from error


async def verified(file: IO[bytes], descriptor: Descriptor, title: str) -> AsyncIterator[bytes]:
    """Yield the next `descriptor.size` bytes of an open file; the last piece only if the digest matches.

    Raises: ContentDamaged.
    """
    running, left, held = BackgroundHash(descriptor.digest), descriptor.size, b""
    while left > 0:
        piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, left))
        if not piece:
            break
        left -= len(piece)
        await running.update(piece)
        if held:
            yield held
        held = piece
    if left or not await running.matches():
        raise ContentDamaged(f"{title}: blob {descriptor.digest.short} does not match its digest: not used")
    if held:
        yield held


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: write and sync a temporary file, and rename it. Raises: OSError."""
    with _arriving(path, path.parent) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _arriving(path: Path, beside: Path) -> Iterator[IO[bytes]]:
    """Return a temporary file that is renamed to `path` after the block, or deleted on an error. The block syncs it."""
    handle, name = tempfile.mkstemp(prefix=".arriving-", dir=beside)
    arriving = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - mkstemp gives a descriptor
            yield file
        arriving.chmod(0o644)
        arriving.replace(path)
    finally:
        arriving.unlink(missing_ok=True)
