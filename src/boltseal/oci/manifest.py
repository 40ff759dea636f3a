"""Parse and check manifests before the registry stores them (image-spec "manifest.md", "image-index.md").

`parse_manifest` parses the bytes of a PUT into a frozen `Manifest`, or raises an error of one sentence. The result depends only
on the bytes and the `Content-Type`. `raw` keeps the bytes as received, since the digest is computed from them.

An ambiguous document is refused. JSON readers differ: the first or the last of two equal keys counts, Go accepts `Layers` for
`layers`, one reader opens a type that another skips (CVE-2021-41190). An attacker can use that to show one image to a scanner
and another to a host. So:

1. `Content-Type`, the document's `mediaType`, or both state the type; if both do, they are equal. A Docker document must have
   a `mediaType`, since OCI readers take a document without it for an OCI one.
2. The type is one of `MANIFEST_TYPES`. Docker's schema 1 and the withdrawn OCI artifact manifest are refused with a reason.
3. The document is JSON (UTF-8, no BOM) within limits that no real image reaches: MAX_MARKS brackets, commas and colons,
   MAX_DEPTH levels, MAX_DESCRIPTORS descriptors. A refusal takes milliseconds for any input.
4. No object has a key twice, and no known key is written in another case.
5. The document is an image (`config`, `layers`) or an index (`manifests`), as its type requires, and has no key of the other.
   `null` for a list is accepted as the empty list, since Go writes it.

Unknown fields are ignored and stay in `raw`. The registry checks whether referenced content exists and has the stated size,
and whether the digest in the URL matches the bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import msgspec

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.oci.descriptor import (
    DESCRIPTOR_KEYS,
    PLATFORM_KEYS,
    Descriptor,
    DescriptorInvalid,
    WireDescriptor,
    check_media_type,
)
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import (
    DOCKER_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    SCHEMA1_TYPES,
    parse_content_type,
)

MAX_DESCRIPTORS: Final = 10_000
MAX_MARKS: Final = 250_000
MAX_DEPTH: Final = 100

MANIFEST_KEYS: Final = frozenset(
    {
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
        "fsLayers",
    }
)
_ACCEPTED: Final = f"accepted are {', '.join(sorted(MANIFEST_TYPES, reverse=True))}"
_TOO_DEEP: Final = f"the manifest is nested too deeply; at most {MAX_DEPTH} levels are read"
_SCHEMA1: Final = (
    "Docker image manifest version 2, schema 1 is not supported, because its digest says nothing about its content; "
    "push the image again with a Docker of 2016 or newer, or convert it with: skopeo copy --format oci"
)


class ManifestInvalid(Invalid):
    """A document that is not a manifest, or is ambiguous."""

    code: ClassVar[ErrorCode] = ErrorCode.MANIFEST_INVALID


class LinkKind(StrEnum):
    """The kind of a reference between contents of a repository. A manifest has all kinds but the last."""

    CHILD = "child"
    CONFIG = "config"
    LAYER = "layer"
    FOREIGN_LAYER = "foreign-layer"  # distinguished from LAYER, since the registry may lack its bytes
    SUBJECT = "subject"
    SIGNATURE_TAG = "signature-tag"  # from a tag's name, such as sha256-<hex>.sig; the registry adds it


class Link(NamedTuple):
    """A reference from a manifest to other content."""

    kind: LinkKind
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest, and its bytes as pushed (`raw`).

    An image has `config` and `layers`, an index has `manifests`; the others are None or empty. `artifact_type` is the value
    for the referrers API: the document's own, else the media type of an image's config, else None.
    """

    raw: bytes
    media_type: str
    is_index: bool
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    def references(self) -> Iterator[Link]:
        """Yield each reference once per kind and digest, in the document's order.

        An index entry whose type is not a manifest type is a LAYER, since every registry treats it as a blob. BuildKit's
        caches are such indexes.
        """
        seen: set[tuple[LinkKind, Digest]] = set()
        for link in self._all_references():
            key = link.kind, link.descriptor.digest
            if key not in seen:
                seen.add(key)
                yield link

    def _all_references(self) -> Iterator[Link]:
        for child in self.manifests:
            yield Link(LinkKind.CHILD, child) if child.media_type in MANIFEST_TYPES else _layer(child)
        if self.config is not None:
            yield Link(LinkKind.CONFIG, self.config)
        for layer in self.layers:
            yield _layer(layer)
        if self.subject is not None:
            yield Link(LinkKind.SUBJECT, self.subject)


def _layer(descriptor: Descriptor) -> Link:
    return Link(LinkKind.FOREIGN_LAYER if descriptor.foreign else LinkKind.LAYER, descriptor)


class _Wire(msgspec.Struct, rename="camel"):
    """The JSON of an image or an index; `null` is read as absent."""

    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    config: WireDescriptor | None = None
    layers: list[WireDescriptor] | None = None
    manifests: list[WireDescriptor] | None = None
    subject: WireDescriptor | None = None
    annotations: dict[str, str] | None = None


def parse_manifest(raw: bytes, content_type: str | None) -> Manifest:
    """Parse the body of a manifest PUT, in the steps of the module's docstring.

    `content_type`: the header as sent, None without one. Raises: ManifestInvalid, MediaTypeInvalid.
    """
    # 1 and 2 for the header: the cheapest check, with the best message for a wrong header
    sent = parse_content_type(content_type)
    if sent is not None:
        _check_accepted(sent, "Content-Type")
    # 3 and 4
    wire, keys = _decode(raw)
    # 1 and 2
    media_type = _media_type(wire, keys, sent)
    # 5
    is_index = media_type in INDEX_TYPES
    _check_shape(keys, media_type, is_index=is_index)
    return _build(raw, wire, media_type, is_index=is_index)


def _check_accepted(media_type: str, source: str) -> None:
    if media_type in SCHEMA1_TYPES:
        raise ManifestInvalid(_SCHEMA1)
    if media_type not in MANIFEST_TYPES:
        raise ManifestInvalid(
            f"{source} {quote(media_type)} is not a manifest this registry can check; {_ACCEPTED}; "
            "anything else goes into an OCI image manifest with an artifactType"
        )


def _decode(raw: bytes) -> tuple[_Wire, Mapping[str, Any]]:
    """Return the typed document, and the document with all its keys."""
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ManifestInvalid("the manifest begins with a byte order mark; JSON has none, send it without")
    if sum(raw.count(mark) for mark in (b"{", b"[", b",", b":")) > MAX_MARKS:
        raise ManifestInvalid(
            f"the manifest has more than {MAX_MARKS} brackets, commas and colons: no image needs that"
        )
    try:
        text = raw.decode()
        wire = msgspec.json.decode(text, type=_Wire)
        keys: dict[str, Any] = _UNAMBIGUOUS.decode(text)
    except UnicodeDecodeError as error:
        raise ManifestInvalid(f"the manifest is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ManifestInvalid(_TOO_DEEP) from error
    except msgspec.MsgspecError as error:
        raise ManifestInvalid(f"the manifest is not valid: {_sentence(error)}") from error
    except ValueError as error:  # Python reads no number of more than 4300 digits
        raise ManifestInvalid("the manifest has a number of thousands of digits") from error
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deep(keys):
        raise ManifestInvalid(_TOO_DEEP)
    _check_spelling(keys)
    return wire, keys


def _is_deep(document: dict[str, Any]) -> bool:
    """Return whether a document has more than MAX_DEPTH levels. The limits of Python versions differ."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def _sentence(error: msgspec.MsgspecError) -> str:
    """Return the message of a JSON error as one line; it may quote input."""
    return quote(str(error).replace("`", ""), 200)[1:-1]


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ManifestInvalid(
            f"the manifest has the key {quote(twice)} twice in one object, so that readers would disagree on it"
        )
    return known


_UNAMBIGUOUS: Final = json.JSONDecoder(object_pairs_hook=_no_key_twice)


def _check_spelling(document: Mapping[str, Any]) -> None:
    """Refuse `Layers`, `DIGEST`, ... where a reader that ignores case would accept them for the known key."""
    _check_keys(document, MANIFEST_KEYS)
    for key in ("config", "subject"):
        _check_descriptor_keys(document.get(key))
    for key in ("layers", "manifests"):
        for descriptor in document.get(key) or ():
            _check_descriptor_keys(descriptor)


def _check_descriptor_keys(descriptor: Mapping[str, Any] | None) -> None:
    if descriptor is not None:
        _check_keys(descriptor, DESCRIPTOR_KEYS)
        platform = descriptor.get("platform")
        if platform is not None:
            _check_keys(platform, PLATFORM_KEYS)


def _check_keys(found: Mapping[str, Any], known: frozenset[str]) -> None:
    if known.issuperset(found):
        return
    folded = {key.casefold(): key for key in known}
    for key in found.keys() - known:
        similar = folded.get(key.casefold())
        if similar is not None:
            raise ManifestInvalid(
                f"the manifest has the key {quote(key)}, which some readers take for {similar}; write {similar}"
            )


def _media_type(wire: _Wire, keys: Mapping[str, Any], sent: str | None) -> str:
    if wire.schema_version == 1:
        raise ManifestInvalid(_SCHEMA1)
    if wire.schema_version != 2:
        raise ManifestInvalid(f"schemaVersion is {wire.schema_version}; expected 2")
    if "fsLayers" in keys:
        raise ManifestInvalid(
            "the manifest has fsLayers of Docker's schema 1 beside schemaVersion 2; it can only be one of both"
        )
    declared = wire.media_type or None
    if declared is not None:
        _check_accepted(declared, "mediaType")
    if declared is not None and sent is not None and declared != sent:
        raise ManifestInvalid(f"Content-Type is {sent}, but the manifest's mediaType is {declared}; they must be equal")
    media_type = declared or sent
    if media_type is None:
        raise ManifestInvalid(f"neither Content-Type nor mediaType says what kind of manifest this is; {_ACCEPTED}")
    if declared is None and media_type in DOCKER_TYPES:
        raise ManifestInvalid(f"a manifest of type {media_type} must have it as its mediaType")
    return media_type


def _check_shape(keys: Mapping[str, Any], media_type: str, *, is_index: bool) -> None:
    own, other, noun = (
        (("manifests",), ("config", "layers"), "an index")
        if is_index
        else (("config", "layers"), ("manifests",), "an image")
    )
    for key in other:
        if key in keys:
            raise ManifestInvalid(
                f"the manifest has {key}, but its type {media_type} is {noun}; it can only be one of both"
            )
    for key in own:
        if key not in keys:
            raise ManifestInvalid(f"the manifest has no {key}, but its type {media_type} is {noun}, which needs it")


def _build(raw: bytes, wire: _Wire, media_type: str, *, is_index: bool) -> Manifest:
    layers, manifests = wire.layers or (), wire.manifests or ()
    if len(layers) + len(manifests) > MAX_DESCRIPTORS:
        raise ManifestInvalid(
            f"the manifest names {len(layers) + len(manifests)} things; the limit is {MAX_DESCRIPTORS}"
        )
    config = _descriptor(wire.config, "config") if wire.config else None
    if config is None and not is_index:
        raise ManifestInvalid("config is null; an image without a configuration names the empty one")
    if wire.artifact_type:
        try:
            check_media_type(wire.artifact_type, "artifactType")
        except DescriptorInvalid as error:
            raise ManifestInvalid(error.message) from error
    return Manifest(
        raw=raw,
        media_type=media_type,
        is_index=is_index,
        config=config,
        layers=_descriptors(layers, "layers"),
        manifests=_descriptors(manifests, "manifests"),
        subject=_descriptor(wire.subject, "subject") if wire.subject else None,
        artifact_type=wire.artifact_type or (config.media_type if config else None),
        annotations=wire.annotations or {},
    )


def _descriptors(wires: Sequence[WireDescriptor], where: str) -> tuple[Descriptor, ...]:
    read: list[Descriptor] = []
    try:
        for wire in wires:
            read.append(Descriptor.read(wire))  # noqa: PERF401  # the length says where it stopped
    except DescriptorInvalid as error:
        raise ManifestInvalid(f"{where}[{len(read)}]: {error.message}") from error
    return tuple(read)


def _descriptor(wire: WireDescriptor, where: str) -> Descriptor:
    try:
        return Descriptor.read(wire)
    except DescriptorInvalid as error:
        raise ManifestInvalid(f"{where}: {error.message}") from error


class Described(Protocol):
    """The values of an index entry. `Descriptor` and the rows of referrers implement it."""

    @property
    def media_type(self) -> str: ...
    @property
    def digest(self) -> Digest: ...
    @property
    def size(self) -> int: ...
    @property
    def artifact_type(self) -> str | None: ...
    @property
    def annotations(self) -> Mapping[str, str]: ...


class _IndexEntry(msgspec.Struct, rename="camel", omit_defaults=True):
    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, rename="camel"):
    schema_version: int
    media_type: str
    manifests: list[_IndexEntry]


def format_index(descriptors: Sequence[Described]) -> bytes:
    """Format an OCI index as the referrers API returns it (distribution-spec "Listing Referrers"); it may be empty."""
    entries = [
        _IndexEntry(each.media_type, str(each.digest), each.size, each.artifact_type, dict(each.annotations) or None)
        for each in descriptors
    ]
    return msgspec.json.encode(_Index(2, OCI_INDEX, entries))
