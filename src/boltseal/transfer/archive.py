"""Archives of `docker save` and `docker load` as source and target: tar files with or without an OCI layout.

    oci-layout, index.json      as in `layout`; Docker 25 and newer and boltseal write them, so that the digest is kept
    blobs/sha256/HEX            manifests, configs, layers
    manifest.json               Docker's own list: [{"Config": PATH, "RepoTags": [...], "Layers": [PATH, ...]}]

Older archives have only Docker's list and no manifest. A manifest is then built from the config and the layers in the archive,
so that the same archive always gives the same image. Each layer is compared with the config's diff_ids.

A source is unpacked into a scratch folder. Only plain files with the names above are read; links are followed only to names
inside the archive. A target is written to a temporary file beside the archive, which is renamed when it is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

from boltseal.errors import quote
from boltseal.files.named_files import FileMissing
from boltseal.oci.annotations import CONTAINERD_NAME, REF_NAME
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from boltseal.oci.reference import Reference
from boltseal.transfer.layout import LayoutLocation
from boltseal.transfer.protocols import (
    BlobTransfer,
    Body,
    ContentDamaged,
    LocationInvalid,
    LocationUnavailable,
    TagTaken,
    check_replaceable,
)

LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
MAX_LIST_BYTES: Final = 8 * 1024 * 1024
MAX_LINKS: Final = 8
_COPY_BYTES: Final = 1024 * 1024
_BLOB: Final = re.compile(r"blobs/(sha256|sha512)/[0-9a-f]{64,128}")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class ArchiveSource(LayoutLocation):
    """An unpacked archive as a source."""

    def __init__(self, folder: Path, title: str) -> None:
        super().__init__(folder)
        self.title = title

    @classmethod
    async def open(cls, archive: Path, scratch: Path, title: str | None = None) -> ArchiveSource:
        """Unpack an archive. Raises: FileMissing, LocationInvalid, ContentDamaged."""
        folder = Path(tempfile.mkdtemp(prefix="archive-", dir=scratch))
        named = title or f"docker-archive:{archive}"
        await asyncio.to_thread(_unpack, archive, folder, named)
        return cls(folder, named)


def _unpack(archive: Path, folder: Path, title: str) -> None:
    try:
        with tarfile.open(archive) as tar:
            members = {_plain(member.name): member for member in tar}
            contents = _Contents(tar, members, title)
            if "index.json" in members and "oci-layout" in members:
                _take_layout(contents, folder)
            elif "manifest.json" in members:
                _make_layout(contents, folder)
            else:
                raise LocationInvalid(f"{title} holds no image: neither index.json nor manifest.json is in it")
    except FileNotFoundError as error:
        raise FileMissing(archive) from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise LocationInvalid(f"{title} is no tar archive, or it is cut off: {error}") from error
    except OSError as error:
        raise LocationUnavailable(f"{title} can't be read: {error.strerror or error}") from error


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _take_layout(contents: _Contents, folder: Path) -> None:
    for name in contents.plain_files():
        if name == "oci-layout" or _BLOB.fullmatch(name):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with contents.open(name) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
    try:
        index = json.loads(contents.read("index.json"))
        for entry in index.get("manifests") or ():
            annotations = entry.get("annotations") or {}
            if CONTAINERD_NAME in annotations:  # the whole name; Docker's ref.name is the tag alone
                annotations[REF_NAME] = annotations[CONTAINERD_NAME]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LocationInvalid(f"{contents.title}: its index.json is not an index of images") from error
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


class _Contents:
    """The files of an archive by name, with links followed."""

    def __init__(self, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], title: str) -> None:
        self._tar = tar
        self._members = members
        self.title = title

    def plain_files(self) -> list[str]:
        return [name for name, member in self._members.items() if member.isreg()]

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(_plain(name))
        for _ in range(MAX_LINKS):
            if member is None or not (member.issym() or member.islnk()):
                break
            base = os.path.dirname(member.name) if member.issym() else ""  # noqa: PTH120 - a name in a tar
            member = self._members.get(os.path.normpath(f"{base}/{member.linkname}").lstrip("/"))
        file = None if member is None or not member.isreg() else self._tar.extractfile(member)
        if file is None:
            raise LocationInvalid(f"{self.title} names {quote(name)} and does not hold it")
        return file

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            raw = file.read(MAX_LIST_BYTES + 1)
        if len(raw) > MAX_LIST_BYTES:
            raise LocationInvalid(f"{self.title}: {quote(name)} is too large for what it is")
        return raw


def _make_layout(contents: _Contents, folder: Path) -> None:
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entries = []
    try:
        for image in json.loads(contents.read("manifest.json")):
            raw = _manifest_of(contents, image, blobs)
            digest = Digest.of(raw)
            (blobs / digest.hex).write_bytes(raw)
            entry = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(raw)}
            names = [str(Reference.parse(name)) for name in image.get("RepoTags") or ()]
            entries += [{**entry, "annotations": {REF_NAME: name}} for name in names] or [entry]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LocationInvalid(f"{contents.title}: its manifest.json is not what docker save writes") from error
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _manifest_of(contents: _Contents, image: dict[str, Any], blobs: Path) -> bytes:
    config = contents.read(image["Config"])
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    if len(diff_ids) != len(image["Layers"]):
        raise ContentDamaged(
            f"{contents.title}: {len(image['Layers'])} layers, and a config that knows {len(diff_ids)}"
        )
    layers = [_layer(contents, name, diff_id, blobs) for name, diff_id in zip(image["Layers"], diff_ids, strict=True)]
    digest = Digest.of(config)
    (blobs / digest.hex).write_bytes(config)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(digest), "size": len(config)},
        "layers": layers,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _layer(contents: _Contents, name: str, diff_id: str, blobs: Path) -> dict[str, object]:
    arriving = blobs / "arriving"
    hasher, size = hashlib.sha256(), 0
    with contents.open(name) as source, arriving.open("wb") as file:
        while piece := source.read(_COPY_BYTES):
            hasher.update(piece)
            size += len(piece)
            file.write(piece)
    digest, zipped = f"sha256:{hasher.hexdigest()}", _is_gzip(arriving)
    if (_unzipped_digest(arriving) if zipped else digest) != diff_id:
        raise ContentDamaged(f"{contents.title}: layer {quote(name)} is not the one its config names ({diff_id[:19]})")
    arriving.replace(blobs / hasher.hexdigest())
    return {"mediaType": f"{LAYER}+gzip" if zipped else LAYER, "digest": digest, "size": size}


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _unzipped_digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with gzip.open(path) as file:
        while piece := file.read(_COPY_BYTES):
            hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


class ArchiveTarget:
    """An archive that is being written. It contains only what this copy puts into it."""

    def __init__(self, archive: Path, *, force: bool = False, title: str | None = None) -> None:
        self.title = title or f"docker-archive:{archive}"
        if archive.exists() and not force:
            raise TagTaken(f"{archive} exists already; choose another file, or pass --force to replace it")
        check_replaceable(archive)
        self._archive = archive
        try:
            handle, name = tempfile.mkstemp(prefix=f".{archive.name}-", dir=archive.parent)
        except OSError as error:
            raise LocationUnavailable(f"{self.title} can't be written: {error.strerror}") from error
        self._arriving = Path(name)
        self._file = open(handle, "wb")  # noqa: PTH123, SIM115 - mkstemp gives a descriptor; `close` closes it
        self._writing = asyncio.Lock()
        self._held: set[Digest] = set()
        self._manifests: dict[Digest, Manifest] = {}
        self._named: list[tuple[str | None, Digest]] = []

    async def current_digest(self, name: str) -> Digest | None:
        """Return None, since a new archive has no names."""
        return None

    async def put_blob(self, descriptor: Descriptor, body: Body) -> BlobTransfer:
        """Append a blob. A lock allows one blob at a time, since a tar archive is sequential."""
        async with self._writing:
            if descriptor.digest in self._held:
                return BlobTransfer.PRESENT
            await asyncio.to_thread(self._write, _header(_path(descriptor.digest), descriptor.size))
            async for piece in body():
                await asyncio.to_thread(self._write, piece)
            self._write(_padding(descriptor.size))
            self._held.add(descriptor.digest)
        return BlobTransfer.SENT

    async def put_manifest(self, manifest: Manifest, digest: Digest, name: str | None, *, only_new: bool) -> None:
        """Append a manifest's blob. `close` writes the names into the lists."""
        async with self._writing:
            if digest not in self._held:
                self._member(_path(digest), manifest.raw)
                self._held.add(digest)
        self._manifests[digest] = manifest
        if name is not None:
            self._named.append((name, digest))

    def _write(self, piece: bytes) -> None:
        try:
            self._file.write(piece)
        except OSError as error:
            raise LocationUnavailable(f"{self.title} can't be written: {error.strerror}") from error

    async def close(self, *, complete: bool) -> None:
        """Write the lists and rename the archive to its path. An incomplete archive is deleted."""
        try:
            if complete:
                self._lists()
                self._write(b"\0" * 2 * tarfile.BLOCKSIZE)
                self._file.flush()
                await asyncio.to_thread(os.fsync, self._file.fileno())
                self._arriving.chmod(0o644)
                self._arriving.replace(self._archive)
        except OSError as error:
            raise LocationUnavailable(f"{self.title} can't be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):  # what could not be written is not wanted any more
                self._file.close()
            self._arriving.unlink(missing_ok=True)

    def _lists(self) -> None:
        entries, listed = [], []
        for name, digest in self._named:
            manifest = self._manifests[digest]
            annotations = {} if name is None else {CONTAINERD_NAME: name, REF_NAME: name.rpartition(":")[2]}
            entries.append(
                {
                    "mediaType": manifest.media_type,
                    "digest": str(digest),
                    "size": len(manifest.raw),
                    "annotations": annotations,
                }
            )
            image = self._image(manifest)
            if image is not None and image.config is not None:
                tags = [] if name is None else [Reference.parse(name).familiar()]
                layers = [_path(layer.digest) for layer in image.layers if not layer.foreign]
                listed.append({"Config": _path(image.config.digest), "RepoTags": tags, "Layers": layers})
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        self._member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self._member("index.json", json.dumps(index).encode())
        self._member("manifest.json", json.dumps(listed).encode())

    def _image(self, manifest: Manifest) -> Manifest | None:
        """Return the image for Docker's list: of an index the one for this machine, since the list has no platforms."""
        if not manifest.is_index:
            return manifest
        machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
        children = [child for child in manifest.manifests if child.digest in self._manifests]
        fitting = [child for child in children if child.platform and child.platform.architecture == machine]
        return next((self._manifests[child.digest] for child in fitting or children), None)

    def _member(self, name: str, content: bytes) -> None:
        self._write(_header(name, len(content)) + content + _padding(len(content)))


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(format=tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)
