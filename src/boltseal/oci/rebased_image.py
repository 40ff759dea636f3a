"""Config and manifest of an image whose base's layers are replaced by those of another base. Pure.

The config is merged from three: the image's, the old base's and the new base's (image-spec "config.md"). A setting that the
image has as the old base had it was inherited, so it takes the new base's value. Any other was set by the image, and stays;
if the new base changed it too, a note says so. Environment variables, labels, ports and volumes are settings of their own.
Labels about a build's sources (created, revision, source, version) belong together: if the image set one, all stay the image's.

    Entrypoint, Cmd   an ENTRYPOINT of the image's own resets the CMD of its base, so it keeps its Cmd as well
    OnBuild           is not inherited: it stays the image's
    history           the new base's, and the image's own steps
    created           the later time of the image and the new base, so that the same three images give the same bytes

What is not in the specification is left out: builders put caches and facts of the build there, which the result is not of.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from boltseal.errors import Mismatch, quote
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, ManifestInvalid, parse_manifest
from boltseal.oci.mediatype import DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST

_TOP: Final = ("created", "author", "architecture", "os", "os.version", "os.features", "variant", "config", "rootfs")
_KNOWN: Final = frozenset({*_TOP, "history"})
_BUILD_FACTS: Final = frozenset({"docker_version", "container", "container_config", "id", "parent"})
"""What older Dockers wrote about a build; left out without a note."""
_SETTINGS: Final = frozenset(
    {"User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "ArgsEscaped",
     "Healthcheck", "OnBuild", "Shell", "StopTimeout"}
)  # fmt: skip
_BY_KEY: Final = ("Labels", "ExposedPorts", "Volumes")
_OWN: Final = frozenset({"OnBuild", *_BY_KEY, "Env", "Cmd", "Image"})
"""Settings that are not merged as one value. `Image`: the ID of the old parent, which older Dockers wrote."""
_BUILD_LABELS: Final = frozenset(
    f"org.opencontainers.image.{name}" for name in ("created", "revision", "source", "version")
)
"""Labels of an image's own build, which may have the same value as those of its base by chance."""
_LAYER: Final = "application/vnd.oci.image.layer.v1."
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff."
_TO_OCI: Final = {f"{_DOCKER_LAYER}tar": f"{_LAYER}tar", f"{_DOCKER_LAYER}tar.gzip": f"{_LAYER}tar+gzip"}
_LAYERS: Final = frozenset({*_TO_OCI, *_TO_OCI.values(), f"{_LAYER}tar+zstd", f"{_DOCKER_LAYER}tar.zstd"})


class NotCarried(Mismatch):
    """Configs or manifests that show no image of exactly the old base and further layers, or that can't be merged."""


class ImageParts(NamedTuple):
    """Manifest and config of an image of one platform."""

    manifest: Manifest
    config: bytes


class RebasedImage(NamedTuple):
    """The result. `notes`: what a person should know about its settings."""

    manifest: Manifest
    config: bytes
    own_layers: int
    notes: tuple[str, ...]


class _Config(NamedTuple):
    """A parsed config: all of it, its settings, its layers and history."""

    top: dict[str, Any]
    settings: dict[str, Any]
    diff_ids: list[str]
    history: list[dict[str, Any]]


def rebased_image(
    image: ImageParts,
    old: ImageParts,
    new: ImageParts,
    labels: Mapping[str, str | None],
    annotations: Mapping[str, str],
) -> RebasedImage:
    """Return the image on the new base. `labels`: to set, or with None to remove; `annotations`: to set.

    Raises: NotCarried.
    """
    configs = [
        _parsed(parts, whose) for parts, whose in ((image, "the image"), (old, "the old base"), (new, "the new base"))
    ]
    ours, was, now = configs
    count = len(was.diff_ids)
    if not was.diff_ids or ours.diff_ids[:count] != was.diff_ids:
        raise NotCarried(f"its layers do not begin with the {count} layers of the old base (diff_ids of the configs)")
    notes: list[str] = []
    top = {**ours.top, "rootfs": {"type": "layers", "diff_ids": now.diff_ids + ours.diff_ids[count:]}}
    for key in ("os.version", "os.features", "variant"):
        top[key] = _merged(key, ours.top.get(key), was.top.get(key), now.top.get(key), notes)
    top["created"] = max(ours.top.get("created") or "", now.top.get("created") or "")
    mine, before, after = _inherited_labels([each.settings for each in configs], labels)
    settings = _settings(mine, before, after, notes)
    settings["Labels"] = {
        name: value for name, value in {**settings.get("Labels", {}), **labels}.items() if value is not None
    }
    top["config"] = {key: value for key, value in settings.items() if value}
    top["history"] = _history(ours, was, now)
    notes += [f"{quote(key)} of its config is left out: it is a fact of its build" for key in _left_out(ours.top)]
    raw = _json({key: value for key, value in top.items() if key in _KNOWN and (value or key == "config")})
    manifest = _manifest(image.manifest, new.manifest, count, raw, annotations)
    return RebasedImage(manifest, raw, len(ours.diff_ids) - count, tuple(notes))


def rebased_index(index: Manifest, children: Mapping[Digest, Manifest], annotations: Mapping[str, str]) -> Manifest:
    """Return an index with other images in place of its own, and without every other entry, such as attestations.

    `children`: by the digest of the former image. `annotations`: to set, if it is of OCI.
    """
    document = _parsed_json(index.raw, "the index")
    oci = index.media_type == OCI_INDEX or any(each.media_type == OCI_MANIFEST for each in children.values())
    entries = []
    for entry in document["manifests"]:
        found = children.get(Digest.parse(entry["digest"]))
        if found is not None:
            entries.append({**entry, **_descriptor(found.media_type, found.raw)} | _annotated(entry, annotations))
    media_type = OCI_INDEX if oci else DOCKER_LIST
    made = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    if oci:
        made["annotations"] = {**index.annotations, **annotations}
    return _made(made, media_type)


def _annotated(entry: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    """Return the annotations of an index entry, with those replaced that it has already; nothing if it has none."""
    own = entry.get("annotations") or {}
    return {"annotations": {name: annotations.get(name, value) for name, value in own.items()}} if own else {}


def _inherited_labels(settings: Iterable[Mapping[str, Any]], replaced: Collection[str]) -> list[dict[str, Any]]:
    """Return the settings with only those labels that may be inherited: none that the rebase replaces.

    `settings`: those of the image, of the old base and of the new one. If the image has labels of a build of its own, those
    of the bases are left out.
    """
    found = [{**each, "Labels": _without(each.get("Labels") or {}, replaced)} for each in settings]
    ours, was, now = found
    if any(ours["Labels"].get(name) != was["Labels"].get(name) for name in _BUILD_LABELS):
        for base in (was, now):
            base["Labels"] = _without(base["Labels"], _BUILD_LABELS)
    return found


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _settings(
    ours: Mapping[str, Any], was: Mapping[str, Any], now: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    if (now.get("OnBuild") or []) != (was.get("OnBuild") or []):
        raise NotCarried("the new base has other ONBUILD instructions than the old one, which only a build carries out")
    merged: dict[str, Any] = {}
    for key in dict.fromkeys((*ours, *now)):
        if key not in _OWN:
            merged[key] = _merged(key, ours.get(key), was.get(key), now.get(key), notes)
    has_own_entrypoint = (ours.get("Entrypoint") or None) != (was.get("Entrypoint") or None)
    if has_own_entrypoint:
        merged["Cmd"] = ours.get("Cmd")
    else:
        merged["Cmd"] = _merged("Cmd", ours.get("Cmd"), was.get("Cmd"), now.get("Cmd"), notes)
    merged["OnBuild"] = ours.get("OnBuild")
    merged["Env"] = [
        name if value is None else f"{name}={value}"
        for name, value in _merged_keys("ENV ", map(_variables, (ours, was, now)), notes).items()
    ]
    for key in _BY_KEY:
        merged[key] = _merged_keys(f"{key} ", [each.get(key) or {} for each in (ours, was, now)], notes)
    return merged


def _merged(key: str, ours: Any, was: Any, now: Any, notes: list[str]) -> Any:
    """Merge one value of a setting; an empty value is a missing one."""
    if (ours or None) == (was or None):
        return now
    if (now or None) not in ((was or None), (ours or None)):
        notes.append(f"{quote(key)[1:-1]} was set by the image and changed in the new base: the image's value stays")
    return ours


def _merged_keys(what: str, of_all: Iterable[Mapping[str, Any]], notes: list[str]) -> dict[str, Any]:
    """Merge settings with names of their own, in the order of a build: the base's first, then the image's own.

    `of_all`: those of the image, of the old base and of the new one.
    """
    ours, was, now = of_all
    merged = {}
    for name in dict.fromkeys((*now, *ours)):
        in_ours, in_was, in_now = ((name in each, each.get(name)) for each in (ours, was, now))
        chosen = in_now if in_ours == in_was else in_ours
        if in_ours != in_was and in_now not in (in_was, in_ours):
            shown = quote(f"{what}{name}")[1:-1]
            notes.append(f"{shown} was set by the image and changed in the new base: the image's value stays")
        if chosen[0]:
            merged[name] = chosen[1]
    return merged


def _variables(settings: Mapping[str, Any]) -> dict[str, str | None]:
    pairs = (text.partition("=") for text in settings.get("Env") or ())
    return {name: value if equals else None for name, equals, value in pairs}


def _history(ours: _Config, was: _Config, now: _Config) -> list[dict[str, Any]]:
    """Return the history of the result; none if the image has none. Raises: NotCarried."""
    if not ours.history:
        return []
    if ours.history[: len(was.history)] != was.history:
        raise NotCarried("its history does not begin with that of the old base: it was built on another image")
    found = now.history + ours.history[len(was.history) :]
    layers = sum(not step.get("empty_layer") for step in found)
    if layers != len(now.diff_ids) + len(ours.diff_ids) - len(was.diff_ids):
        raise NotCarried(
            f"the history of the image or of a base has another number of layers than its config ({layers})"
        )
    return found


def _left_out(top: Iterable[str]) -> list[str]:
    return sorted(set(top) - _KNOWN - _BUILD_FACTS)


def _manifest(
    image: Manifest, base: Manifest, old_layers: int, config: bytes, annotations: Mapping[str, str]
) -> Manifest:
    base_layers = _layers(base, "the new base")
    layers = base_layers + _layers(image, "the image")[old_layers:]
    types = {layer["mediaType"] for layer in layers}
    docker = image.media_type == DOCKER_MANIFEST and all(each.startswith(_DOCKER_LAYER) for each in types)
    if not docker:
        layers = [{**layer, "mediaType": _oci_type(layer["mediaType"])} for layer in layers]
    made: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
        "config": _descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, config),
        "layers": layers,
    }
    if not docker:
        made["annotations"] = {**image.annotations, **annotations}
    return _made(made, made["mediaType"])


def _oci_type(media_type: str) -> str:
    return _TO_OCI.get(media_type, media_type.replace(f"{_DOCKER_LAYER}tar.zstd", f"{_LAYER}tar+zstd"))


def _layers(manifest: Manifest, whose: str) -> list[dict[str, Any]]:
    for layer in manifest.layers:
        if layer.foreign or layer.media_type not in _LAYERS:
            raise NotCarried(f"{whose} has a layer of the type {quote(layer.media_type)}, which a rebase can't move")
    found: list[dict[str, Any]] = _parsed_json(manifest.raw, whose)["layers"] or []
    return found


def _parsed(parts: ImageParts, whose: str) -> _Config:
    """Parse a config strictly. Raises: NotCarried."""
    top = _parsed_json(parts.config, whose)
    settings, rootfs, history = top.get("config") or {}, top.get("rootfs"), top.get("history") or []
    diff_ids: Any = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if (
        not isinstance(settings, dict)
        or not _are(diff_ids, str)
        or not _are(history, dict)
        or not _are(settings.get("Env") or [], str)
        or not all(isinstance(settings.get(key) or {}, dict) for key in _BY_KEY)
        or not isinstance(top.get("created") or "", str)
    ):
        raise NotCarried(f"the config of {whose} is not one of an image")
    if len(diff_ids) != len(parts.manifest.layers):
        raise NotCarried(
            f"the config of {whose} has {len(diff_ids)} layers, and its manifest {len(parts.manifest.layers)}"
        )
    return _Config(top, settings, diff_ids, history)


def _are(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _parsed_json(raw: bytes, whose: str) -> dict[str, Any]:
    """Parse an object of which all readers read the same. Raises: NotCarried."""
    try:
        found = json.loads(raw, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise NotCarried(f"the config of {whose} can't be read: {quote(str(error))[1:-1]}") from error
    if not isinstance(found, dict):
        raise NotCarried(f"the config of {whose} is not an object")
    settings = found.get("config")
    for keys, known in ((found, _KNOWN), (settings if isinstance(settings, dict) else {}, _SETTINGS)):
        spelled = {key.casefold(): key for key in known}
        for key in keys:
            if spelled.get(key.casefold(), key) != key:
                raise NotCarried(f"the config of {whose} has the key {quote(key)}, which some readers take for another")
    return found


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found


def _made(document: Mapping[str, Any], media_type: str) -> Manifest:
    try:
        return parse_manifest(_json(document), media_type)
    except ManifestInvalid as error:
        raise NotCarried(f"the manifest of the result is not valid: {error.message}") from error


def _descriptor(media_type: str, raw: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
