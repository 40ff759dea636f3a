"""A named volume on an engine, read and written through a container that is never started.

Administrators who reach an engine by ssh or by its socket have no path into its host's files. What they share lies in the
volume; the engine's archive API reads and writes it:

    POST /images/load                    an image without files, as a container needs one; it is removed afterwards
    POST /containers/create?name=NAME    a container with the volume; only one can have NAME, so it is also a lock
    GET, PUT /containers/ID/archive      the files of the volume, as a tar archive
    DELETE /containers/ID                the volume stays

A PUT replaces files one by one, so that a file may be torn by a power cut: readers check what is in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, TypeVar

import msgspec

from boltseal.engines.api import Engine, EngineFailed, EngineRefused, NoSuchContainer, NoSuchImage
from boltseal.engines.bounded_answers import chunks
from boltseal.engines.inventory import EngineMismatch, container_id
from boltseal.errors import BoltsealError
from boltseal.oci.fresh_layers import EMPTY_DIFF_ID, EMPTY_LAYER
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference

T = TypeVar("T")

VOLUME: Final = "boltseal-releases"
MOUNTED_AT: Final = "/releases"
MAX_VOLUME_BYTES: Final = 1024 * 1024 * 1024
_IMAGE: Final = Reference.parse("boltseal/releases:1")
_TRIES: Final = 5
_JSON: Final = {"Content-Type": "application/json"}
_TAR: Final = {"Content-Type": "application/x-tar"}


class NameTaken(EngineRefused):
    """Another container has the name."""


class _Created(msgspec.Struct):
    Id: str


class _Identity(msgspec.Struct, rename={"id": "ID", "name": "Name", "root": "DockerRootDir"}):
    id: str = ""
    name: str = ""
    root: str = ""


class _Labeled(msgspec.Struct, rename={"labels": "Labels"}):
    labels: dict[str, str] | None = None


class _Volume(msgspec.Struct, rename={"name": "Name"}):
    name: str


class _Volumes(msgspec.Struct, rename={"volumes": "Volumes"}):
    volumes: list[_Volume] | None = None


class _Inspected(msgspec.Struct, rename={"id": "Id", "config": "Config"}):
    id: str
    config: _Labeled


async def engine_id(engine: Engine) -> str:
    """Return a name for an engine that does not depend on the address by which it is reached.

    Docker keeps an ID in its data folder. Podman makes up another one for each answer: its host and folder stand for it.
    """
    found = _decoded(await engine.ask("GET", "info"), _Identity)
    kind, parts = ("podman", [found.name, found.root]) if engine.about.podman else ("docker", [found.id])
    if not all(parts):
        raise EngineMismatch("the engine reports no ID, by which its releases would be found")
    return f"{kind}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class VolumeContainer:
    """A container with the volume. `id`: of the container."""

    engine: Engine
    id: str

    @classmethod
    async def create(cls, engine: Engine, name: str, labels: Mapping[str, str]) -> VolumeContainer:
        """Create a container with this name, and the volume if it is missing.

        Raises: NameTaken: a container has the name.
        """
        mount = {"Type": "volume", "Source": VOLUME, "Target": MOUNTED_AT}
        wanted = {
            "Image": _IMAGE.familiar(),
            "Cmd": ["never-started"],
            "Labels": dict(labels),
            "NetworkDisabled": True,
            "HostConfig": {"NetworkMode": "none", "Mounts": [mount]},
        }
        for last in range(1, _TRIES + 1):
            try:
                raw = await engine.ask(
                    "POST", "containers/create", params={"name": name}, content=json.dumps(wanted), headers=_JSON
                )
                return cls(engine, container_id(_decoded(raw, _Created).Id))
            except NoSuchImage:  # also where another process has removed it meanwhile
                if last == _TRIES:
                    raise
                await _load_image(engine)
            except (EngineRefused, EngineFailed) as error:
                if isinstance(error, EngineRefused) or "already in use" in error.message:
                    raise NameTaken(error.message) from error
                raise
        raise AssertionError("unreachable")

    async def read(self, folder: str = "") -> dict[str, bytes]:
        """Return the files of a folder of the volume by their paths in it; none if there is no such folder."""
        path = f"{MOUNTED_AT}/{folder}".rstrip("/")
        with tempfile.TemporaryFile() as spooled:
            try:
                async with self.engine.stream("GET", f"containers/{self.id}/archive", params={"path": path}) as answer:
                    async for piece in chunks(answer, most=MAX_VOLUME_BYTES):
                        spooled.write(piece)
            except NoSuchContainer:
                await labels_of(self.engine, self.id)  # the container itself must be there
                return {}
            spooled.seek(0)
            try:
                return files_in_archive(spooled)
            except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
                raise EngineMismatch(f"the engine's archive of {path} can't be read: {error}") from error

    async def write(self, files: Mapping[str, bytes]) -> None:
        """Write files of the volume, readable only by root of the engine's host. Raises: NoSuchContainer: it was removed."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
            made = set[str]()
            for name, content in files.items():
                folder = str(PurePosixPath(name).parent)
                if folder not in {".", *made}:
                    made.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o700
                    archive.addfile(entry)
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o600
                archive.addfile(entry, io.BytesIO(content))
        await self.engine.ask(
            "PUT",
            f"containers/{self.id}/archive",
            params={"path": MOUNTED_AT},
            content=raw.getvalue(),
            headers=_TAR,
        )

    async def remove(self) -> None:
        """Remove the container and the image without files; the volume stays."""
        await remove_container(self.engine, self.id)


def files_in_archive(file: IO[bytes]) -> dict[str, bytes]:
    """Return the regular files in an engine's archive of a folder, by their paths in it.

    Raises: TarError, OSError, ValueError: it is malformed, or has a sparse file, which can be far larger than the archive.
    """
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.issparse():
                raise ValueError("it has a sparse file")
            parts = PurePosixPath(member.name).parts[1:]
            content = archive.extractfile(member) if member.isfile() else None
            if parts and content is not None:
                files["/".join(parts)] = content.read()
    return files


async def has_volume(engine: Engine) -> bool:
    """Return whether the engine has the volume."""
    found = _decoded(await engine.ask("GET", "volumes"), _Volumes)
    return any(each.name == VOLUME for each in found.volumes or ())


async def remove_container(engine: Engine, id_: str) -> None:
    """Remove a container that was never started, by its ID, and the image without files."""
    with suppress(NoSuchContainer):
        await engine.ask("DELETE", f"containers/{container_id(id_)}")
    with suppress(BoltsealError):  # another container uses it, or it is removed already
        await engine.untag(_IMAGE, allow_last=True)


async def labels_of(engine: Engine, name: str) -> tuple[str, Mapping[str, str]]:
    """Return the ID and the labels of a container. Raises: NoSuchContainer."""
    found = _decoded(await engine.ask("GET", f"containers/{name}/json"), _Inspected)
    return container_id(found.id), found.config.labels or {}


async def _load_image(engine: Engine) -> None:
    """Load the image without files. Podman keeps a temporary file for each image that is imported, and none for a loaded one."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(_image_archive(engine.about.platform))
        file.flush()
        await engine.load(Path(file.name))


def _image_archive(platform: Platform) -> bytes:
    """Return an archive of the image, in the format of `docker save`."""
    config = json.dumps(
        {
            "os": platform.os or "linux",
            "architecture": platform.architecture,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(EMPTY_DIFF_ID)]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    listed = [{"Config": name, "RepoTags": [str(_IMAGE)], "Layers": ["layer.tar"]}]
    files = {name: config, "layer.tar": EMPTY_LAYER, "manifest.json": json.dumps(listed).encode()}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def _decoded(raw: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EngineMismatch(f"the engine's answer is malformed: {error}") from error
