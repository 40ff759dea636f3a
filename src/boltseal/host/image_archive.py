"""An archive of images beside releases: an OCI layout on this machine, from which an engine gets back what a prune removed.

    ROOT/images/
      oci-layout, index.json      one descriptor per image, annotated with the engine's ID of it
      blobs/sha256/HEX            shared by all images; uncompressed where the engine saves them so
      lock                        flock of the process that writes or loads
      loading-*/                  an archive that is loaded; left by a process that was killed meanwhile

1. What the engine saves is unpacked; every blob is hashed, and its name must be its hash.
2. The index is replaced by a rename after its blobs are durable, so an interrupted process leaves only unreferenced blobs.
3. An image is loaded by an archive of its blobs, each hashed again. It has its former ID then, which is a digest.

Nothing but an image's content is kept: its tags are those of the releases.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boltseal.engines.api import Engine, NoSuchImage
from boltseal.engines.bounded_answers import PIECE_BYTES, chunks
from boltseal.errors import BoltsealError, Mismatch, Unavailable, quote
from boltseal.files.atomic_files import Disk, is_no_space, locked, make_folders, write_file
from boltseal.oci.digest import Digest

_ID: Final = "io.boltseal.image.id"
_BLOBS: Final = "blobs/sha256/"
_LAYOUT: Final = b'{"imageLayoutVersion": "1.0.0"}\n'
_MODE: Final = 0o600
_SCRATCH: Final = "loading-"
MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024


class ArchiveUnusable(Unavailable):
    """The archive of images can't be read or written."""


class ArchiveDiffers(Mismatch):
    """A blob of the archive is not what its name says."""


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """The archive of one engine's images. `root`: the folder of the engine's releases."""

    root: Path

    @property
    def folder(self) -> Path:
        """Return the folder of the layout."""
        return self.root / "images"

    def ids(self) -> frozenset[Digest]:
        """Return the engine's IDs of all archived images. Raises: ArchiveUnusable."""
        return frozenset(Digest.parse(each["annotations"][_ID]) for each in self._index())

    def size_bytes(self) -> int:
        """Return the size of all blobs."""
        with self._translated():
            return sum(path.stat().st_size for path in (self.folder / _BLOBS).glob("*"))

    async def add(self, engine: Engine, image: Digest) -> bool:
        """Archive an image of an engine; return False if it is archived already.

        Raises: NoSuchImage, ArchiveUnusable, ArchiveDiffers; errors of the engine.
        """
        if image in self.ids():
            return False
        with self._writing(), tempfile.TemporaryFile(dir=self.folder) as saved:
            path, query = (f"images/{image}/get", {})
            if engine.about.podman:  # its compatible API saves no OCI layout
                path, query = f"libpod/images/{image}/get", {"format": "oci-archive"}
            async with engine.stream("GET", path, params=query) as answer:
                async for piece in chunks(answer, size=PIECE_BYTES):
                    saved.write(piece)
            saved.seek(0)
            descriptors = self._unpack(saved)
            for each in descriptors:
                each["annotations"] = {_ID: str(image)}
            self._write_index([*self._index(), *descriptors])
        return True

    async def load(self, engine: Engine, image: Digest) -> bool:
        """Load an archived image into an engine; return False if it is not archived.

        Raises: ArchiveDiffers: a blob was changed; Unavailable: the engine has another ID for it; errors of the engine.
        """
        wanted = [each for each in self._index() if each["annotations"][_ID] == str(image)]
        if not wanted:
            return False
        with self._writing(), tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.folder) as scratch:
            archive = Path(scratch) / "image.tar"
            self._pack(archive, wanted, docker=not engine.about.podman)
            await engine.load(archive)
        try:
            await engine.image(image)
        except NoSuchImage as error:
            raise Unavailable(f"the engine loaded the archived image {image.short} under another ID") from error
        return True

    def keep_only(self, images: Collection[Digest]) -> None:
        """Remove all other images, blobs that none of these has, and what killed processes left. Raises: ArchiveUnusable."""
        if not self.folder.is_dir():
            return
        with self._writing():
            index = self._index()
            kept = [each for each in index if Digest.parse(each["annotations"][_ID]) in images]
            if kept != index:
                self._write_index(kept)
            needed = {hex_ for each in kept for hex_ in self._reachable(each)}
            for path in (self.folder / _BLOBS).glob("*"):
                if path.name not in needed:
                    path.unlink()
            for path in self.folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(path)
            for path in self.folder.glob("*.new"):  # of `write_file`
                path.unlink()

    def _unpack(self, saved: Any) -> list[dict[str, Any]]:
        """Write the blobs of a saved layout, and return the descriptors of its index."""
        index: list[dict[str, Any]] = []
        try:
            with tarfile.open(fileobj=saved, mode="r:") as archive:
                for member in archive:
                    if member.issparse():  # its holes would fill the disk
                        raise ValueError("it has a sparse file")
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is None:
                        continue
                    if member.name == "index.json":
                        index = json.loads(content.read(MAX_DOCUMENT_BYTES))["manifests"]
                    elif member.name.startswith(_BLOBS):
                        self._write_blob(member.name.removeprefix(_BLOBS), content)
        except (tarfile.TarError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArchiveUnusable(f"what the engine saved can't be read: {quote(str(error), 200)}") from error
        if not index:
            raise ArchiveUnusable("what the engine saved is no OCI layout with an image")
        return [{key: value for key, value in each.items() if key != "annotations"} for each in index[:1]]

    def _write_blob(self, name: str, content: Any) -> None:
        """Write a blob. Raises: ArchiveDiffers: its hash is not `name`; DigestInvalid: `name` is no hash."""
        path = self.folder / _BLOBS / Digest.parse(f"sha256:{name}").hex
        temporary = path.with_name(f".{os.urandom(6).hex()}")
        hashed = hashlib.sha256()
        try:
            with temporary.open("xb") as file:
                temporary.chmod(_MODE)
                while piece := content.read(PIECE_BYTES):
                    hashed.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if hashed.hexdigest() != name:
                raise ArchiveDiffers(
                    f"the engine saved a blob whose hash is not its name (got {hashed.hexdigest()[:12]})"
                )
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _pack(self, to: Path, descriptors: list[dict[str, Any]], *, docker: bool) -> None:
        bare = [{key: value for key, value in each.items() if key != "annotations"} for each in descriptors]
        with tarfile.open(to, "w") as archive:
            _member(archive, "oci-layout", _LAYOUT)
            _member(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": bare}).encode())
            if docker:
                _member(archive, "manifest.json", json.dumps(list(self._dockers_manifests(descriptors))).encode())
            for hex_ in sorted({hex_ for each in descriptors for hex_ in self._reachable(each)}):
                path = self.folder / _BLOBS / hex_
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != hex_:
                        raise ArchiveDiffers(f"{path} was changed: its hash is not its name; the image is not loaded")
                    file.seek(0)
                    entry = tarfile.TarInfo(_BLOBS + hex_)
                    entry.size = path.stat().st_size
                    archive.addfile(entry, file)

    def _dockers_manifests(self, descriptors: list[dict[str, Any]]) -> Iterator[dict[str, object]]:
        """Yield what Docker's classic store reads in place of an index."""
        for each in descriptors:
            for document in self._documents(each):
                config = document.get("config", {}).get("digest")
                if config is not None and self._has(config):
                    layers = [_BLOBS + layer["digest"].removeprefix("sha256:") for layer in document.get("layers", ())]
                    yield {"Config": _BLOBS + config.removeprefix("sha256:"), "RepoTags": None, "Layers": layers}
                    return

    def _reachable(self, descriptor: dict[str, Any]) -> Iterator[str]:
        """Yield the hex of each blob of an image that the archive has: children of other platforms may be missing."""
        for document in self._documents(descriptor):
            for each in (document.get("config"), *document.get("layers", ())):
                if each is not None and self._has(each["digest"]):
                    yield each["digest"].removeprefix("sha256:")
            for each in (descriptor, *document.get("manifests", ())):
                if self._has(each["digest"]):
                    yield each["digest"].removeprefix("sha256:")

    def _documents(self, descriptor: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the manifest or index of a descriptor, and the manifests of an index."""
        if not self._has(descriptor["digest"]):
            return
        with self._translated():
            raw = (self.folder / _BLOBS / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        document = json.loads(raw[:MAX_DOCUMENT_BYTES])
        yield document
        for each in document.get("manifests", ()):
            yield from self._documents(each)

    def _has(self, digest: str) -> bool:
        return (self.folder / _BLOBS / Digest.parse(digest).hex).is_file()

    def _index(self) -> list[dict[str, Any]]:
        path = self.folder / "index.json"
        with self._translated():
            if not path.exists():
                return []
            try:
                found: list[dict[str, Any]] = json.loads(path.read_bytes())["manifests"]
                for each in found:
                    Digest.parse(each["annotations"][_ID])
                    Digest.parse(each["digest"])
            except (ValueError, KeyError, TypeError, BoltsealError) as error:
                raise ArchiveUnusable(f"{path} can't be read: {quote(str(error), 200)}; remove the folder") from error
        return found

    def _write_index(self, descriptors: list[dict[str, Any]]) -> None:
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": descriptors,
        }
        with self._translated():
            write_file(Disk(), self.folder / "oci-layout", _LAYOUT, _MODE)
            write_file(Disk(), self.folder / "index.json", json.dumps(document, indent=1).encode(), _MODE)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._translated():
            make_folders(Disk(), self.folder / _BLOBS)
            self.folder.chmod(0o700)
            with locked(os.fspath(self.folder / "lock"), _MODE):
                yield

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "; free some space" if is_no_space(error) else ""
            raise ArchiveUnusable(
                f"could not use the archive of images in {self.folder}: {error.strerror}{hint}"
            ) from error


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
