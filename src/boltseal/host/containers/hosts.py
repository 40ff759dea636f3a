"""What runs on one engine: one list, and then at most one question about each container and each distinct image.

An image is asked for by the ID that its container stands on. What the container's name means on that host by now is a
second thing, and asked only where the image's own record does not answer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boltseal.engines.api import LOOK_S, Engine, EngineUnavailable, Name, NoSuchContainer, NoSuchImage, each_once
from boltseal.engines.inventory import ContainerHealth, EngineContainer, EngineImage, ImageStoreKind, State
from boltseal.errors import Invalid
from boltseal.lockfile.container_check import DigestKind, Origin, RunningImage
from boltseal.lockfile.document import lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import IMAGE_TYPES, INDEX_TYPES
from boltseal.oci.reference import Reference

MAX_NAMES: Final = 100
MAX_LABEL: Final = 255

_PROJECT: Final = ("com.docker.compose.project", "io.podman.compose.project")
_SERVICE: Final = ("com.docker.compose.service", "io.podman.compose.service")
_LOCALHOST: Final = "localhost"
"""Podman's registry of what it built itself."""


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """A container that runs. `name`: as its host calls it; of a cluster `NAMESPACE/POD/CONTAINER`, and `node` is there.

    `started_as`: the image as its creator wrote it, any text. `runtime`: Docker, Podman, containerd, CRI-O, ...
    `project` and `service`: of Compose, "" outside of it. Times in microseconds, None where the host does not say.
    """

    host: str
    name: str
    id: str
    started_as: str
    image: RunningImage
    runtime: str
    node: str = ""
    project: str = ""
    service: str = ""
    state: State = State.RUNNING
    health: ContainerHealth = ContainerHealth.NONE
    restarts: int = 0
    started_us: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerHost:
    """All that runs on one engine or cluster. `name`: as it was asked for; `kind`: what it is, with its version and store."""

    name: str
    kind: str
    seen: tuple[RunningContainer, ...]


async def look(engine: Engine, within_s: float = LOOK_S) -> ContainerHost:
    """What runs on an engine now, told within `within_s`. EngineUnavailable, EngineForbidden, EngineMismatch, SshFailed."""
    store = await engine.store()
    ids = await engine.container_ids()
    try:
        async with asyncio.timeout(within_s):
            asked = await each_once(ids, lambda id_: _container(engine, id_), NoSuchContainer)
            running = [each for each in asked.values() if each is not None and each.running]
            ours = (each.image for each in running if each.image is not None)
            images = await each_once(ours, lambda id_: _image(engine, id_), NoSuchImage)
            names = await _here(engine, running, images)
    except TimeoutError as error:
        raise EngineUnavailable(f"{engine.address} has not told all that runs after {within_s:g} s") from error
    machine = str(engine.about.platform)
    host = str(engine.address)
    seen = tuple(_seen(each, images, names, store, host, engine.about.product, machine) for each in running)
    kind = f"{engine.about.product} {engine.about.version}, {_STORES[store]}, {machine}"
    return ContainerHost(host, kind, tuple(sorted(seen, key=lambda each: each.name)))


_STORES: Final = {
    ImageStoreKind.CLASSIC: "its own image store",
    ImageStoreKind.CONTAINERD: "containerd's image store",
    ImageStoreKind.PODMAN: "Podman's image store",
}


async def _here(
    engine: Engine, running: Iterable[EngineContainer], images: Mapping[Digest, EngineImage | None]
) -> dict[Reference, EngineImage | None]:
    """What the names that containers were started as mean on the host now; None where nothing has such a name."""
    known = {name: image for image in images.values() if image is not None for name in image.names}
    wanted = {name for each in running if (name := name_of(each.started_as)) is not None and name.tag is not None}
    asked = await each_once(sorted(wanted - known.keys(), key=str), lambda name: _image(engine, name), NoSuchImage)
    return known | asked


async def _container(engine: Engine, id_: str) -> EngineContainer:
    """A container without the labels that nobody asks for here: an engine may have made them of any size."""
    found = await engine.container(id_)
    wanted = {key: text[:MAX_LABEL] for key in (*_PROJECT, *_SERVICE) if (text := found.labels.get(key))}
    return replace(found, labels=wanted)


async def _image(engine: Engine, name: Name) -> EngineImage:
    """An image, of its names no more than anybody reads."""
    found = await engine.image(name)
    return replace(found, labels={}, names=found.names[:MAX_NAMES], pulled_as=found.pulled_as[:MAX_NAMES])


def name_of(started_as: str) -> Reference | None:
    """What a container's creator wrote, as the reference that it is known by here; None for an ID and any other text."""
    try:
        return lock_key(Reference.parse(started_as))
    except Invalid:
        return None


def _seen(
    it: EngineContainer,
    images: Mapping[Digest, EngineImage | None],
    names: Mapping[Reference, EngineImage | None],
    store: ImageStoreKind,
    host: str,
    product: str,
    machine: str,
) -> RunningContainer:
    image = None if it.image is None else images.get(it.image)
    name = _named(it.started_as, it.image)
    here = None if name is None else names.get(name)
    standing = RunningImage(
        started_as=name,
        digests={} if it.image is None else _digests(it.image, image, store),
        machine=machine,
        recorded=image is not None,
        created_us=it.created_us,
        local_digests=None if here is None else frozenset(_digests(here.id, here, store)),
    )
    if it.manifest is not None:
        standing = replace(standing, digests={**standing.digests, it.manifest.digest: DigestKind.MANIFEST})
    if image is not None:
        standing = replace(
            standing,
            names=image.names,
            pulled_as=image.pulled_as,
            platform=it.manifest.platform if it.manifest and it.manifest.platform else str(image.platform),
            origin=_origin(image, store),
            tagged_us=image.tagged_us,
        )
    return RunningContainer(
        host=host,
        name=it.name or it.id[:12],
        id=it.id,
        started_as=it.started_as,
        image=standing,
        runtime=product,
        project=_label(it.labels, _PROJECT),
        service=_label(it.labels, _SERVICE),
        state=it.state,
        health=it.health,
        restarts=it.restarts,
        started_us=it.started_us,
    )


def _named(started_as: str, image: Digest | None) -> Reference | None:
    """The name; an image ID, whole or its beginning, is none, though Docker reads some of them as names."""
    if image is not None and len(started_as) >= 6 and image.hex.startswith(started_as.removeprefix("sha256:")):
        return None
    return name_of(started_as)


def _digests(id_: Digest, image: EngineImage | None, store: ImageStoreKind) -> dict[Digest, DigestKind]:
    """All digests that the host knows the image by, and of what each is."""
    found = (
        {}
        if image is None
        else {one.digest: DigestKind.UNSPECIFIED for one in image.pulled_as if one.digest is not None}
    )
    if store is not ImageStoreKind.CONTAINERD:
        return found | {id_: DigestKind.CONFIG}
    kind = DigestKind.UNSPECIFIED
    if image is not None and image.target is not None:
        if image.target.media_type in INDEX_TYPES:
            kind = DigestKind.INDEX
        elif image.target.media_type in IMAGE_TYPES:
            kind = DigestKind.MANIFEST
    return found | {id_: kind}


def _origin(image: EngineImage, store: ImageStoreKind) -> Origin:
    if store is ImageStoreKind.CLASSIC:
        return Origin.PULLED if image.pulled_as else Origin.LOCAL
    called = {each.registry for each in (*image.names, *image.pulled_as)}
    return Origin.LOCAL if store is ImageStoreKind.PODMAN and called == {_LOCALHOST} else Origin.UNSPECIFIED


def _label(labels: Mapping[str, str], names: Iterable[str]) -> str:
    return next((labels[name] for name in names if name in labels), "")
