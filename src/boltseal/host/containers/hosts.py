"""Lists the running containers of one engine: one list request, then at most one request per container and distinct image.

An image is looked up by the ID that its container runs. What the container's image name resolves to on that host now is a
separate question, and asked only if the image's own record does not answer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boltseal.engines.api import QUERY_S, Engine, EngineUnavailable, Name, NoSuchContainer, NoSuchImage, query_each
from boltseal.engines.copied_images import copied_images
from boltseal.engines.inventory import ContainerHealth, EngineContainer, EngineImage, ImageStoreKind, State
from boltseal.errors import Invalid
from boltseal.lockfile.container_check import (
    DigestKind,
    Origin,
    RunningImage,
    is_changed_mark,
    shown_name,
    without_keep_tags,
)
from boltseal.lockfile.document import lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import IMAGE_TYPES, INDEX_TYPES
from boltseal.oci.reference import Reference

MAX_NAMES: Final = 100
MAX_LABEL: Final = 255

_PROJECT: Final = ("com.docker.compose.project", "io.podman.compose.project")
_SERVICE: Final = ("com.docker.compose.service", "io.podman.compose.service")
_LOCALHOST: Final = "localhost"
"""The registry name that Podman gives to local builds."""


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """A running container.

    `name`: on its host; on a cluster `NAMESPACE/POD/CONTAINER`, and `node` is set. `started_as`: the image as the
    container's creator wrote it, any text. `runtime`: Docker, Podman, containerd, CRI-O, ... `project`, `service`: of
    Compose, else "". Times are microseconds, None if the host does not report them. Only of a cluster, where containers that do not
    run are listed on request: `waiting`: why it does not run, "" if it runs; `deleted`: whether its pod is being deleted.
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
    waiting: str = ""
    deleted: bool = False

    @property
    def asked_digest(self) -> Digest | None:
        """The digest that the container's creator wrote beside or instead of a tag, None without one."""
        try:
            return Reference.parse(self.started_as).digest
        except Invalid:
            return None


@dataclass(frozen=True, slots=True)
class ContainerHost:
    """The running containers of one engine or cluster. `name`: its address; `kind`: its product, version and image store.

    `unread`: what could not be checked about its containers, and why.
    """

    name: str
    kind: str
    seen: tuple[RunningContainer, ...]
    unread: tuple[str, ...] = ()


async def list_running(engine: Engine, within_s: float = QUERY_S) -> ContainerHost:
    """Return the containers that run on an engine now. `within_s`: the time limit.

    Raises: EngineUnavailable, Denied, EngineMismatch, SshFailed.
    """
    store = await engine.store()
    ids = await engine.container_ids()
    try:
        async with asyncio.timeout(within_s):
            asked = await query_each(ids, lambda id_: _container(engine, id_), NoSuchContainer)
            running = [each for each in asked.values() if each is not None and each.running]
            ours = (each.image for each in running if each.image is not None)
            images = await query_each(ours, lambda id_: _image(engine, id_), NoSuchImage)
            names = await _names_on_host(engine, running, images)
            copies = await copied_images(engine, store, (each for each in images.values() if each is not None))
    except TimeoutError as error:
        raise EngineUnavailable(
            f"{engine.address} did not list all running containers within {within_s:g} s"
        ) from error
    machine = str(engine.about.platform)
    host = str(engine.address)
    described = (
        _running_container(each, images, names, store, host, engine.about.product, machine) for each in running
    )
    seen = tuple(_as_copy(each) if of.image in copies else each for each, of in zip(described, running, strict=True))
    kind = f"{engine.about.product} {engine.about.version}, {_STORES[store]}, {machine}"
    return ContainerHost(host, kind, tuple(sorted(seen, key=lambda each: each.name)))


_STORES: Final = {
    ImageStoreKind.CLASSIC: "its own image store",
    ImageStoreKind.CONTAINERD: "containerd's image store",
    ImageStoreKind.PODMAN: "Podman's image store",
}


async def _names_on_host(
    engine: Engine, running: Iterable[EngineContainer], images: Mapping[Digest, EngineImage | None]
) -> dict[Reference, EngineImage | None]:
    """Return what the image names of containers resolve to on the host now; None for a name without an image."""
    known = {name: image for image in images.values() if image is not None for name in image.names}
    wanted = {
        name for each in running if (name := parse_image_name(each.started_as)) is not None and name.tag is not None
    }
    asked = await query_each(sorted(wanted - known.keys(), key=str), lambda name: _image(engine, name), NoSuchImage)
    return known | asked


async def _container(engine: Engine, id_: str) -> EngineContainer:
    """Return a container with only the needed labels, truncated: labels can have any size."""
    found = await engine.container(id_)
    wanted = {key: text[:MAX_LABEL] for key in (*_PROJECT, *_SERVICE) if (text := found.labels.get(key))}
    return replace(found, labels=wanted)


async def _image(engine: Engine, name: Name) -> EngineImage:
    """Return an image without labels and with at most MAX_NAMES names."""
    found = await engine.image(name)
    return replace(found, labels={}, names=found.names[:MAX_NAMES], pulled_as=found.pulled_as[:MAX_NAMES])


def parse_image_name(started_as: str) -> Reference | None:
    """Parse the image that a container was created from into its lock key; None for an ID or other text."""
    try:
        return lock_key(Reference.parse(started_as))
    except Invalid:
        return None


def _running_container(
    container: EngineContainer,
    images: Mapping[Digest, EngineImage | None],
    names: Mapping[Reference, EngineImage | None],
    store: ImageStoreKind,
    host: str,
    product: str,
    machine: str,
) -> RunningContainer:
    image = None if container.image is None else images.get(container.image)
    name = _image_name(container.started_as, container.image)
    named_image = None if name is None else names.get(name)
    running_image = RunningImage(
        started_as=name,
        digests={} if container.image is None else _digests(container.image, image, store),
        machine=machine,
        recorded=image is not None,
        created_us=container.created_us,
        local_digests=None if named_image is None else frozenset(_digests(named_image.id, named_image, store)),
    )
    if container.manifest is not None:
        running_image = replace(
            running_image, digests={**running_image.digests, container.manifest.digest: DigestKind.MANIFEST}
        )
    if image is not None:
        running_image = replace(
            running_image,
            names=without_keep_tags(image.names),
            is_evidence=any(map(is_changed_mark, image.names)),
            pulled_as=image.pulled_as,
            platform=container.manifest.platform
            if container.manifest and container.manifest.platform
            else str(image.platform),
            origin=_origin(image, store),
            tagged_us=image.tagged_us,
        )
    return RunningContainer(
        host=host,
        name=container.name or container.id[:12],
        id=container.id,
        started_as=shown_name(container.started_as, () if image is None else image.pulled_as),
        image=running_image,
        runtime=product,
        project=_label(container.labels, _PROJECT),
        service=_label(container.labels, _SERVICE),
        state=container.state,
        health=container.health,
        restarts=container.restarts,
        started_us=container.started_us,
    )


def _as_copy(seen: RunningContainer) -> RunningContainer:
    """Return a container of a copy that `pull --replace` made: it is no local build, though its host has no registry digest."""
    return replace(seen, image=replace(seen.image, origin=Origin.UNSPECIFIED, is_copy=True))


def _image_name(started_as: str, image: Digest | None) -> Reference | None:
    """Return the image name; None for an image ID or its prefix, though Docker parses some of them as names."""
    if image is not None and len(started_as) >= 6 and image.hex.startswith(started_as.removeprefix("sha256:")):
        return None
    return parse_image_name(started_as)


def _digests(id_: Digest, image: EngineImage | None, store: ImageStoreKind) -> dict[Digest, DigestKind]:
    """Return all digests that the host has for an image, each with its kind."""
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
