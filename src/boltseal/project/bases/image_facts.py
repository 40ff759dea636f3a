"""Extract the facts of one image of one platform from its manifest and config (image-spec "config.md"). Pure.

Layers are identified by their diff_ids, the digests of their uncompressed content: a manifest's layer digests change
when a layer is compressed again, although the image is the same.

A config is untrusted, and many are in memory at a time. So long texts are cut to a readable prefix and a hash of the
whole, which keeps comparisons exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME, REVISION, VERSION
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.jsontext import decode
from boltseal.oci.layer_chain import MAX_LAYERS, MAX_STEPS, MAX_TEXT
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import DOCKER_CONFIG, OCI_CONFIG
from boltseal.oci.platform import Platform

CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
MAX_CONFIG_BYTES: Final = 8 * 1024 * 1024
MAX_SETTINGS: Final = 1000
ONE_BUILD: Final = timedelta(hours=1)
"""How long the build of an image from scratch may take, to be recognised by its history."""
REVISION_OF: Final = "boltseal.revision-of"
"""Label: the tag that the image's tag is a rebuild of."""
BASE_WAS: Final = "boltseal.base.was"
"""Label: what the base's tag resolved to for the build before; the rebuild carries the base's change since then."""
INPUTS: Final = "boltseal.inputs"
"""A label: the hash of all build inputs, set by `boltseal build`."""
IMAGE: Final = "boltseal.image"
"""A label: the reference that the image was built and pushed as, set by `boltseal build`."""
_LABELS: Final = frozenset({INPUTS, IMAGE, BASE_NAME, BASE_DIGEST, VERSION, REVISION})
"""The labels and annotations that this package uses."""


class NotAnImage(Invalid):
    """A manifest that is not a container image: a signature, an SBOM, a chart."""


class NotRead(Invalid):
    """An image that exceeds a limit or can't be parsed, so whether it is outdated is unknown."""


class ConfigBlob(NamedTuple):
    """The config of an image, as its manifest names it."""

    digest: Digest
    size_bytes: int


class HistoryStep(NamedTuple):
    """One line of an image's history. `empty`: it created no layer.

    `origin`: the comment in which buildah names the base (`FROM alpine`), or Docker what it squashed (`merge sha256:...`).
    """

    created: str
    created_by: str
    empty: bool
    origin: str = ""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """The settings that containers, and images built on this one, inherit."""

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

    @property
    def hash(self) -> str:
        """A hash of all settings, which registries keep (`oci.layer_chain.VERSION`)."""
        values = (self.entrypoint, self.command, self.user, self.ports, self.folder, self.volumes)
        more = (self.health, self.stop_signal, self.shell, self.on_build)
        return sha256(ascii((sorted(self.env.items()), *values, *more)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The facts of one image. `sizes`: of its layers as stored, in bytes; () if unknown.

    `hashed_settings`: the hash of its settings, if only the layer chain of the image is known; `settings` are empty then.
    """

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
    hashed_settings: str = ""

    @property
    def inherited_hash(self) -> str:
        """The hash of the settings that containers, and images built on this one, inherit."""
        return self.hashed_settings or self.settings.hash

    def annotation_or_label(self, name: str) -> str:
        """Return an annotation, else a label of the image; "" if neither exists."""
        return self.annotations.get(name) or self.labels.get(name, "")

    def begins_with(self, other: ImageFacts) -> bool:
        """Return whether its layers begin with all layers of another image; False if that has none."""
        return bool(other.diff_ids) and self.diff_ids[: len(other.diff_ids)] == other.diff_ids

    def history_begins_with(self, other: ImageFacts) -> bool:
        """Return whether its history begins with all of another image's history, exactly."""
        return bool(other.history) and self.history[: len(other.history)] == other.history

    @property
    def looks_built_from_scratch(self) -> bool:
        """Return whether it has one layer, and a history that one build can have made, without a base.

        A base with several layers would have left them, unless it was squashed, which builders note in the history.
        """
        times = [_time(step.created) for step in self.history]
        known = [time for time in (*times, _time(self.created)) if time is not None]
        return (
            len(self.diff_ids) == 1
            and 0 < len(times) < len(known)
            and max(known) - min(known) <= ONE_BUILD
            and all(step.origin in ("", "FROM scratch") for step in self.history)
        )

    def same_as(self, other: ImageFacts) -> bool:
        """Return whether images built on either one inherit the same: layers and settings."""
        if self.config == other.config or self.diff_ids != other.diff_ids:
            return self.config == other.config
        if self.hashed_settings or other.hashed_settings:
            return self.inherited_hash == other.inherited_hash
        return self.settings == other.settings


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
    comment: str | None = None
    empty_layer: bool = False


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str | None = None
    config: _Run | None = None
    rootfs: _RootFs | None = None
    history: list[_Step] | None = None


def config_of(manifest: Manifest, digest: Digest) -> ConfigBlob:
    """Return the config that describes an image. Raises: NotAnImage, NotRead."""
    if manifest.is_index:
        raise NotRead(f"{digest.short} is an index inside an index, which is not read")
    descriptor = manifest.config
    if descriptor is None or descriptor.media_type not in CONFIG_TYPES:
        kind = manifest.artifact_type or manifest.media_type
        raise NotAnImage(f"{digest.short} is not a container image: it is {quote(kind)}")
    if descriptor.size > MAX_CONFIG_BYTES:
        raise NotRead(f"{digest.short} has a config of {descriptor.size} bytes, expected at most {MAX_CONFIG_BYTES}")
    return ConfigBlob(descriptor.digest, descriptor.size)


def read_facts(manifest: Manifest, digest: Digest, config: bytes) -> ImageFacts:
    """Extract the facts of an image. `digest`: of the manifest. Raises: NotAnImage, NotRead."""
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
        "characters in its platform": (max(map(len, (read.os, read.architecture, read.variant))), MAX_TEXT),
        "settings": (sum(map(len, (run.env or (), run.exposed_ports or (), run.volumes or ()))), MAX_SETTINGS),
    }
    for what, (number, most) in counts.items():
        if number > most:
            raise NotRead(f"{digest.short} has {number} {what}, expected at most {most}")
    sizes = tuple(layer.size for layer in manifest.layers)
    return ImageFacts(
        manifest=digest,
        config=named,
        platform=Platform(read.os, read.architecture, read.variant),
        diff_ids=diff_ids,
        sizes=sizes if len(sizes) == len(diff_ids) else (),
        settings=_settings(run),
        labels=_known_texts(run.labels or {}),
        annotations=_known_texts(manifest.annotations),
        created=(read.created or "")[:MAX_TEXT],
        history=tuple(
            HistoryStep(
                _short(step.created or ""), _short(step.created_by or ""), step.empty_layer, _origin(step.comment or "")
            )
            for step in history
        ),
    )


def _settings(run: _Run) -> ImageSettings:
    return ImageSettings(
        env={_short(name): _short(value) for name, _, value in (text.partition("=") for text in run.env or ())},
        entrypoint=_words(run.entrypoint),
        command=_words(run.cmd),
        user=_short(run.user or ""),
        ports=tuple(sorted(map(_short, run.exposed_ports or ()))),
        folder=_short(run.working_dir or ""),
        volumes=tuple(sorted(map(_short, run.volumes or ()))),
        health="" if (health := bytes(run.healthcheck)) == b"null" else _short(health.decode("utf-8", "replace")),
        stop_signal=_short(run.stop_signal or ""),
        shell=_words(run.shell),
        on_build=_words(run.on_build),
    )


def _words(value: list[str] | str | None) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value or ())
    if len(words) > MAX_SETTINGS:
        words = (*words[:MAX_SETTINGS], sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest())
    return tuple(map(_short, words))


def _known_texts(texts: Mapping[str, str]) -> Mapping[str, str]:
    return {name: text[:MAX_TEXT] for name, text in texts.items() if name in _LABELS}


def _origin(comment: str) -> str:
    return _short(comment) if comment.startswith(("FROM ", "merge sha256:")) else ""


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def _short(text: str) -> str:
    """Return a text, or its beginning and a hash of the whole."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT - 80]}... {sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
