"""What one image of one platform is made of, of its manifest and config (image-spec "config.md"). Pure.

Layers are told by their diff_ids, the digests of what they hold when nothing compresses them: the digests in a manifest
change when a layer is compressed again, by another program or with zstd, and the image is the same.

A config may be anybody's, and many are held at a time: of its texts stay as much as people read, and a hash of the rest, so
that two are equal when the texts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME, REVISION, VERSION
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.jsontext import decode
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import DOCKER_CONFIG, OCI_CONFIG
from boltseal.oci.platform import Platform

CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
MAX_CONFIG_BYTES: Final = 8 * 1024 * 1024
MAX_LAYERS: Final = 1000
MAX_STEPS: Final = 2000
MAX_SETTINGS: Final = 1000
MAX_TEXT: Final = 300
INPUTS: Final = "boltseal.inputs"
"""A label: the hash of all that the image was built of, as `boltseal build` writes it."""
IMAGE: Final = "boltseal.image"
"""A label: under which name the image was built and pushed, as `boltseal build` writes it."""
_LABELS: Final = frozenset({INPUTS, IMAGE, BASE_NAME, BASE_DIGEST, VERSION, REVISION})
"""The labels and annotations that anybody here asks for."""


class NotAnImage(Invalid):
    """A manifest that is no image that runs: a signature, an SBOM, a chart."""


class NotRead(Invalid):
    """An image that says more of itself than is read, or what can't be read: whether it is outdated can't be told."""


class HistoryStep(NamedTuple):
    """One line of an image's history. `empty`: it made no layer."""

    created: str
    created_by: str
    empty: bool


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What a container gets from its image, and what an image gets from its base."""

    env: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    ports: tuple[str, ...]
    folder: str
    volumes: tuple[str, ...]
    health: str = ""
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image. `sizes`: of its layers as they are stored, in bytes, () where that is not known."""

    manifest: Digest
    config: Digest
    platform: Platform
    diff_ids: tuple[str, ...]
    sizes: tuple[int, ...]
    settings: ImageSettings
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: str
    history: tuple[HistoryStep, ...]

    def said(self, name: str) -> str:
        """An annotation, else a label of the image; "" where neither is there."""
        return self.annotations.get(name) or self.labels.get(name, "")

    def begins_with(self, other: ImageFacts) -> bool:
        """Whether its layers begin with all layers of another image; one without layers begins nothing."""
        return bool(other.diff_ids) and self.diff_ids[: len(other.diff_ids)] == other.diff_ids

    def history_begins_with(self, other: ImageFacts) -> bool:
        """Whether its history begins with all of another image's history, to the second and the letter."""
        return bool(other.history) and self.history[: len(other.history)] == other.history

    def same_as(self, other: ImageFacts) -> bool:
        """Whether whoever builds on the one gets what they get from the other: layers and settings."""
        return self.config == other.config or (self.diff_ids == other.diff_ids and self.settings == other.settings)


class _Run(msgspec.Struct, rename="pascal"):
    env: list[str] | None = None
    entrypoint: list[str] | str | None = None
    cmd: list[str] | str | None = None
    user: str | None = None
    exposed_ports: dict[str, object] | None = None
    volumes: dict[str, object] | None = None
    working_dir: str | None = None
    healthcheck: msgspec.Raw = msgspec.Raw(b"null")
    stop_signal: str | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None


class _RootFs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Step(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    empty_layer: bool = False


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str | None = None
    config: _Run | None = None
    rootfs: _RootFs | None = None
    history: list[_Step] | None = None


def config_of(manifest: Manifest, digest: Digest) -> tuple[Digest, int]:
    """Digest and size (bytes) of the config that has to be read. NotAnImage, NotRead."""
    if manifest.is_index:
        raise NotRead(f"{digest.short} is an index within an index, which is not looked into")
    descriptor = manifest.config
    if descriptor is None or descriptor.media_type not in CONFIG_TYPES:
        kind = manifest.artifact_type or manifest.media_type
        raise NotAnImage(f"{digest.short} is no image that runs: it is {quote(kind)}")
    if descriptor.size > MAX_CONFIG_BYTES:
        raise NotRead(f"{digest.short} has a config of {descriptor.size} bytes; at most {MAX_CONFIG_BYTES} are read")
    return descriptor.digest, descriptor.size


def read_facts(manifest: Manifest, digest: Digest, config: bytes) -> ImageFacts:
    """The facts of an image, of its manifest, the manifest's digest, and the bytes of its config. NotAnImage, NotRead."""
    named, _ = config_of(manifest, digest)
    try:
        read = decode(config, _Config)
        diff_ids = tuple(str(Digest.parse(text)) for text in (read.rootfs or _RootFs()).diff_ids or ())
    except (ValueError, DigestInvalid) as error:
        reason = error.message if isinstance(error, DigestInvalid) else quote(str(error))[1:-1]
        raise NotRead(f"{digest.short}: its config {named.short} can't be read: {reason}") from error
    run, history = read.config or _Run(), read.history or ()
    counts = {
        "layers": (len(diff_ids), MAX_LAYERS),
        "lines of history": (len(history), MAX_STEPS),
        "settings": (sum(map(len, (run.env or (), run.exposed_ports or (), run.volumes or ()))), MAX_SETTINGS),
    }
    for what, (number, most) in counts.items():
        if number > most:
            raise NotRead(f"{digest.short} has {number} {what}; at most {most} are looked at")
    sizes = tuple(layer.size for layer in manifest.layers)
    return ImageFacts(
        digest,
        named,
        Platform(read.os, read.architecture, read.variant),
        diff_ids,
        sizes if len(sizes) == len(diff_ids) else (),
        _settings(run),
        _asked_for(run.labels or {}),
        _asked_for(manifest.annotations),
        (read.created or "")[:MAX_TEXT],
        tuple(
            HistoryStep(_short(step.created or ""), _short(step.created_by or ""), step.empty_layer) for step in history
        ),
    )


def _settings(run: _Run) -> ImageSettings:
    return ImageSettings(
        {_short(name): _short(value) for name, _, value in (text.partition("=") for text in run.env or ())},
        _words(run.entrypoint),
        _words(run.cmd),
        _short(run.user or ""),
        tuple(sorted(map(_short, run.exposed_ports or ()))),
        _short(run.working_dir or ""),
        tuple(sorted(map(_short, run.volumes or ()))),
        "" if (health := bytes(run.healthcheck)) == b"null" else _short(health.decode("utf-8", "replace")),
        _short(run.stop_signal or ""),
        _words(run.shell),
        _words(run.on_build),
    )


def _words(said: list[str] | str | None) -> tuple[str, ...]:
    words = (said,) if isinstance(said, str) else tuple(said or ())
    if len(words) > MAX_SETTINGS:
        words = (*words[:MAX_SETTINGS], sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest())
    return tuple(map(_short, words))


def _asked_for(said: Mapping[str, str]) -> Mapping[str, str]:
    return {name: text[:MAX_TEXT] for name, text in said.items() if name in _LABELS}


def _short(text: str) -> str:
    """A text, or its beginning and a hash of all of it."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT - 80]}... {sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
