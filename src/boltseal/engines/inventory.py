"""Parse containers and images from an engine's JSON into frozen values. Pure.

The JSON is that of Docker's API and of Podman's compatible one. The values are the engine's claims: nothing here was
hashed (`host.scrub` does that). An impossible value (an ID that is no digest, a document of another form) raises
EngineMismatch; a missing one is None or empty.

The meaning of an image ID depends on the store:

    classic store, Podman    the digest of the image's config
    containerd's store       the digest of what was pulled or built: an index or a manifest; `media_type` says which
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from boltseal.engines.engine_times import seconds_us, time_us
from boltseal.errors import BoltsealError, Unavailable, quote
from boltseal.lockfile.container_check import MARK_REGISTRY
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.mediatype import INDEX_TYPES
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference

T = TypeVar("T")

MAX_NAME: Final = 4096
"""Longest image name in a container's configuration, in characters."""

_CONTAINER_ID: Final = re.compile(r"[0-9a-f]{12,64}")
_CONTAINER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_SNAPSHOTTER: Final = "io.containerd.snapshotter.v1"


class EngineMismatch(Unavailable):
    """An engine's answer is malformed or impossible."""


class ImageStoreKind(StrEnum):
    """The kind of an engine's image store, which determines what an image ID is."""

    CLASSIC = "classic"
    CONTAINERD = "containerd"
    PODMAN = "podman"


class State(StrEnum):
    """The state of a container; Podman's states are mapped to these."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class ContainerHealth(StrEnum):
    """The result of a container's health check. NONE: it has none, or it is disabled."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


_NOT_CLEANED_UP: Final = "stopped"
_PODMANS_STATES: Final = {
    "configured": State.CREATED,
    "initialized": State.CREATED,
    "stopping": State.RUNNING,
    _NOT_CLEANED_UP: State.EXITED,
}
_PODMANS_HEALTH: Final = {"": ContainerHealth.NONE, "reset": ContainerHealth.STARTING, "stopped": ContainerHealth.NONE}


@dataclass(frozen=True, slots=True)
class About:
    """The engine's version. `api`: its newest API version. `platform`: of its machine."""

    product: str
    version: str
    api: str
    platform: Platform

    @property
    def podman(self) -> bool:
        """Return whether this is Podman's compatible API."""
        return self.product == "Podman"


@dataclass(frozen=True, slots=True)
class StoreDescriptor:
    """A descriptor in an engine's store: digest, media type, platform."""

    digest: Digest
    media_type: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True)
class EngineContainer:
    """A container. `started_as`: the image as written by its creator; `image`: the ID of the image that it uses.

    `manifest`: the platform's manifest, where the engine reports it (containerd's store, from API 1.48 on).
    `exit_code`: of its last run, None while it runs or if it never ran. `restarts`: restarts by the engine. `terminal`:
    it has one, so its log is one raw stream. `cleaned_up`: False on Podman from the end of its process until Podman has
    unmounted its files, which takes a moment.
    """

    id: str
    name: str
    started_as: str
    image: Digest | None
    state: State
    health: ContainerHealth = ContainerHealth.NONE
    exit_code: int | None = None
    restarts: int = 0
    terminal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    created_us: int | None = None
    started_us: int | None = None
    manifest: StoreDescriptor | None = None
    cleaned_up: bool = True

    @property
    def running(self) -> bool:
        """Return whether it has a process, possibly paused."""
        return self.state in (State.RUNNING, State.PAUSED)


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image. `names`: its tags; `pulled_as`: repositories with digests; `target`: the descriptor in containerd's
    store.

    `tagged_us`: when it was last tagged here, None if not reported.
    """

    id: Digest
    names: tuple[Reference, ...] = ()
    pulled_as: tuple[Reference, ...] = ()
    target: StoreDescriptor | None = None
    platform: Platform = field(default_factory=Platform)
    labels: Mapping[str, str] = field(default_factory=dict)
    created_us: int | None = None
    tagged_us: int | None = None
    size_bytes: int = 0

    @property
    def is_index(self) -> bool:
        """Return whether the ID is known to be that of an index."""
        return self.target is not None and self.target.media_type in INDEX_TYPES


class _Component(msgspec.Struct, rename="pascal"):
    name: str = ""


class _Version(msgspec.Struct, rename="pascal"):
    version: str = ""
    api_version: str = ""
    os: str = ""
    arch: str = ""
    components: list[_Component] | None = None


class _Info(msgspec.Struct, rename="pascal"):
    driver_status: list[list[str]] | None = None
    docker_root_dir: str = ""


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct):
    digest: str = ""
    mediaType: str = ""  # noqa: N815 - the key of the document
    platform: _Platform | None = None


class _Listed(msgspec.Struct):
    Id: str


class _Health(msgspec.Struct, rename="pascal"):
    status: str = ""


class _State(msgspec.Struct, rename="pascal"):
    status: str
    exit_code: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**32)] = 0
    started_at: str = ""
    health: _Health | None = None


class _Config(msgspec.Struct, rename="pascal"):
    image: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ""
    tty: bool = False
    labels: dict[str, str] | None = None


class _Container(msgspec.Struct, rename="pascal", kw_only=True):
    id: str
    name: str = ""
    image: str = ""
    created: str = ""
    state: _State
    restart_count: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    config: _Config = msgspec.field(default_factory=_Config)
    image_manifest_descriptor: _Descriptor | None = None


class _Metadata(msgspec.Struct, rename="pascal"):
    last_tag_time: str = ""


class _GraphDriver(msgspec.Struct, rename="pascal"):
    data: dict[str, str] | None = None


class _WithGraphDriver(msgspec.Struct, rename="pascal"):
    graph_driver: _GraphDriver | None = None


class _Step(msgspec.Struct, rename="pascal"):
    created_by: str = ""


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    created: str | int = ""
    size: int = 0
    os: str = ""
    architecture: str = ""
    variant: str = ""
    labels: dict[str, str] | None = None
    config: _Config | None = None
    descriptor: _Descriptor | None = None
    metadata: _Metadata | None = None


def about(raw: bytes) -> About:
    """Parse `GET /version`. Raises: EngineMismatch."""
    document = _decoded(raw, _Version, "its version")
    podman = any(each.name.startswith("Podman") for each in document.components or [])
    if re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,4}", document.api_version) is None:
        raise EngineMismatch(
            f"the engine reports API version {quote(document.api_version)}; expected a version such as 1.45"
        )
    return About(
        "Podman" if podman else "Docker", document.version, document.api_version, Platform(document.os, document.arch)
    )


def store(raw: bytes) -> ImageStoreKind:
    """Parse the kind of Docker's image store from `GET /info`. Raises: EngineMismatch."""
    status = _decoded(raw, _Info, "its information").driver_status or []
    return ImageStoreKind.CONTAINERD if ["driver-type", _SNAPSHOTTER] in status else ImageStoreKind.CLASSIC


def data_root(raw: bytes) -> Path | None:
    """Parse the engine's data folder from `GET /info`; None if it is no absolute path. Raises: EngineMismatch."""
    document = _decoded(raw, _Info, "its information").docker_root_dir
    return Path(document) if document.startswith("/") and "\0" not in document else None


def container_ids(raw: bytes) -> tuple[str, ...]:
    """Parse the container IDs of `GET /containers/json`. Raises: EngineMismatch."""
    return tuple(container_id(each.Id) for each in _decoded(raw, list[_Listed], "its containers"))


def container_id(text: str) -> str:
    """Check a container ID, which is used in URLs. Raises: EngineMismatch."""
    if _CONTAINER_ID.fullmatch(text) is None:
        raise EngineMismatch(f"the engine reports a container ID {quote(text)}; expected 64 hex digits")
    return text


def container(raw: bytes) -> EngineContainer:
    """Parse `GET /containers/ID/json`. Raises: EngineMismatch."""
    document = _decoded(raw, _Container, "a container")
    state, started_us = _state(document.state.status), time_us(document.state.started_at)
    ended = started_us is not None and state not in (State.RUNNING, State.PAUSED)
    return EngineContainer(
        id=container_id(document.id),
        name=_container_name(document.name),
        started_as=document.config.image,
        image=_image_id(document.image),
        state=state,
        health=_health(document.state.health),
        exit_code=document.state.exit_code if ended else None,
        restarts=document.restart_count,
        terminal=document.config.tty,
        labels=document.config.labels or {},
        created_us=time_us(document.created),
        started_us=started_us,
        manifest=_descriptor(document.image_manifest_descriptor),
        cleaned_up=document.state.status != _NOT_CLEANED_UP,
    )


def _container_name(text: str) -> str:
    name = text.removeprefix("/")
    if name and _CONTAINER_NAME.fullmatch(name) is None:
        raise EngineMismatch(f"the engine reports a container name {quote(name)}; expected letters, digits and _.-")
    return name


def _state(value: str) -> State:
    try:
        return _PODMANS_STATES.get(value) or State(value)
    except ValueError as error:
        raise EngineMismatch(
            f"the engine reports a container state {quote(value)}; expected a state such as running"
        ) from error


def _health(document: _Health | None) -> ContainerHealth:
    value = "" if document is None else document.status
    try:
        return _PODMANS_HEALTH.get(value) or ContainerHealth(value)
    except ValueError as error:
        raise EngineMismatch(
            f"the engine reports a container health {quote(value)}; expected a status such as healthy"
        ) from error


def image(raw: bytes) -> EngineImage:
    """Parse `GET /images/NAME/json`. Raises: EngineMismatch."""
    return _as_image(_decoded(raw, _Image, "an image"))


def layer_folders(raw: bytes) -> tuple[str, ...]:
    """Parse the folders of an image's layers from `GET /images/NAME/json`, topmost first; none if they are not reported.

    Raises: EngineMismatch.
    """
    driver = _decoded(raw, _WithGraphDriver, "an image").graph_driver
    data = {} if driver is None else driver.data or {}
    return tuple(filter(None, (data.get("UpperDir", ""), *data.get("LowerDir", "").split(":"))))


def commands(raw: bytes) -> frozenset[str]:
    """Parse the commands that made an image's layers from `GET /images/NAME/history`. Raises: EngineMismatch."""
    return frozenset(each.created_by for each in _decoded(raw, list[_Step], "an image's history"))


def images(raw: bytes) -> tuple[EngineImage, ...]:
    """Parse `GET /images/json`. Raises: EngineMismatch."""
    return tuple(_as_image(each) for each in _decoded(raw, list[_Image], "its images"))


def _as_image(document: _Image) -> EngineImage:
    found = _image_id(document.id)
    if found is None:
        raise EngineMismatch(f"the engine says that an image's ID is {quote(document.id)}; expected a digest")
    labels = document.labels if document.config is None else document.config.labels
    return EngineImage(
        id=found,
        names=_references(document.repo_tags),
        pulled_as=tuple(each for each in _references(document.repo_digests) if each.registry != MARK_REGISTRY),
        target=_descriptor(document.descriptor),
        platform=Platform(document.os, document.architecture, document.variant),
        labels=labels or {},
        created_us=seconds_us(document.created) if isinstance(document.created, int) else time_us(document.created),
        tagged_us=None if document.metadata is None else time_us(document.metadata.last_tag_time),
        size_bytes=document.size,
    )


def _references(texts: Iterable[str] | None) -> tuple[Reference, ...]:
    """Return the names that are references; `<none>:<none>` and other placeholders are skipped."""
    found: dict[Reference, None] = {}
    for text in texts or ():
        try:
            found[Reference.parse(text)] = None
        except BoltsealError:
            continue
    return tuple(found)


def _image_id(text: str) -> Digest | None:
    """Parse an image ID; Podman omits the algorithm in places. None for ""."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return Digest("sha256", text)
    try:
        return Digest.parse(text) if text else None
    except DigestInvalid as error:
        raise EngineMismatch(f"the engine says that an image's ID is {quote(text)}; expected a digest") from error


def _descriptor(document: _Descriptor | None) -> StoreDescriptor | None:
    if document is None or not document.digest:
        return None
    try:
        digest = Digest.parse(document.digest)
    except DigestInvalid as error:
        raise EngineMismatch(
            f"the engine reports an image digest {quote(document.digest)}; expected a digest"
        ) from error
    at = document.platform
    platform = "" if at is None else str(Platform(at.os, at.architecture, at.variant))
    return StoreDescriptor(digest, document.mediaType, platform)


def _decoded(raw: bytes, shape: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(raw, type=shape)
    except RecursionError as error:
        raise EngineMismatch(f"the engine's answer about {what} is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError) as error:
        reason = quote(str(error), 200)[1:-1]
        raise EngineMismatch(f"the engine's answer about {what} can't be parsed: {reason}") from error


def line(raw: bytes) -> Mapping[str, Any]:
    """Parse one line of a progress stream. Raises: EngineMismatch."""
    return _decoded(raw, dict[str, Any], "its progress")
