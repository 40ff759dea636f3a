"""Claims about an image's base image, by source. Pure.

    recorded   at build time: `built` ledger entries; annotations and labels
               (`org.opencontainers.image.base.name`, `.digest`); BuildKit's provenance
    proven     by its layers (`layer_match`)
    inferred   from FROM in a Dockerfile, or from a name, that the user gives

A claim is as reliable as its source. A label is inherited by every image built on the labelled one, unless it also
names its own image (`boltseal.image`). Provenance lists the images of all build stages. `layer_match.may_be_base`
compares a claim with the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import msgspec

from boltseal.errors import Invalid
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Reference
from boltseal.project.bases.image_facts import IMAGE, ImageFacts

BUILT_NAME: Final = "base.name"
BUILT_DIGEST: Final = "base.digest"
"""Keys in the `extra` of a `built` entry."""
MAX_STATEMENT_BYTES: Final = 8 * 1024 * 1024
MAX_IMAGES: Final = 200
"""Maximum number of images in a provenance statement; a longer one is ignored."""
SCRATCH: Final = "scratch"

_FRONTENDS: Final = frozenset({"docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream"})
"""Images that run the build and are not part of its result: named by `# syntax=`."""
_is_sha256 = re.compile(r"[0-9a-f]{64}").fullmatch


class ClaimKind(StrEnum):
    """How reliably the base is known."""

    RECORDED = "recorded"
    PROVEN = "proven"
    INFERRED = "inferred"


class ClaimSource(StrEnum):
    """The source of a claim, the most reliable first."""

    BUILT = "a built entry of the ledger"
    ANNOTATION = "an annotation of the manifest"
    PROVENANCE = "the build's provenance"
    CAME_WITH = "a label that came with it"
    LABEL = "a label"
    LAYERS = "its layers"
    GIVEN = "--base"
    DOCKERFILE = "the Dockerfile"

    @property
    def shows(self) -> str:
        """The source with its verb, for a sentence."""
        return f"{self} {'show' if self is ClaimSource.LAYERS else 'shows'}"


@dataclass(frozen=True, slots=True)
class BaseClaim:
    """A claim about a base. `base`: a reference with a tag and no digest; None: built from scratch.

    `digest`: what the tag resolved to at build time, an index or one platform's manifest; None if not recorded.
    """

    base: Reference | None
    digest: Digest | None
    source: ClaimSource
    kind: ClaimKind = ClaimKind.RECORDED

    @property
    def sure(self) -> bool:
        """Whether the claim was made for exactly this image, so that the layers need not confirm it."""
        return self.source in (ClaimSource.BUILT, ClaimSource.ANNOTATION)


def claim_from_annotations(annotations: Mapping[str, str]) -> BaseClaim | None:
    """Return the claim in annotations of the image's index or manifest."""
    return _recorded(annotations.get(BASE_NAME, ""), annotations.get(BASE_DIGEST, ""), ClaimSource.ANNOTATION)


def claim_from_labels(facts: ImageFacts) -> BaseClaim | None:
    """Return the claim in the image's labels."""
    return _recorded(facts.labels.get(BASE_NAME, ""), facts.labels.get(BASE_DIGEST, ""), ClaimSource.LABEL)


def inherited_claim(facts: ImageFacts, own: Reference) -> BaseClaim | None:
    """Return the image that the labels name as their own, if it is another one than `own`: the labels were inherited.

    It is the base of this image, or this image before it was copied elsewhere.
    """
    name = facts.labels.get(IMAGE, "")
    try:
        image = Reference.parse(name).by_tag if name else None
    except Invalid:
        return None
    if image is None or image.repository == own.repository:
        return None
    return BaseClaim(image, None, ClaimSource.CAME_WITH)


def labelled_image(facts: ImageFacts) -> Reference | None:
    """Return the image that the labels name as their own, with its tag; None if they name none."""
    try:
        return Reference.parse(facts.labels.get(IMAGE, "")).by_tag
    except Invalid:
        return None


def may_be_inherited(facts: ImageFacts, own: Reference, claim: BaseClaim) -> bool:
    """Return whether an image between this one and the claimed base would have caused the same claim.

    So it is for claims by layers, and for labels, unless the image's labels name the image itself.
    """
    if claim.source is ClaimSource.LABEL:
        return labelled_image(facts) != own.by_tag
    return claim.source is ClaimSource.CAME_WITH or (claim.kind is not ClaimKind.RECORDED and claim.digest is None)


def claim_from_entries(entries: Iterable[Entry], digest: Digest) -> BaseClaim | None:
    """Return the claim of an image's newest `built` entry. `entries`: the oldest first."""
    built = [entry for entry in entries if entry.kind is EntryKind.BUILT and entry.digest == str(digest)]
    if not built:
        return None
    return _recorded(built[-1].extra.get(BUILT_NAME, ""), built[-1].extra.get(BUILT_DIGEST, ""), ClaimSource.BUILT)


def claim_from_reference(reference: Reference | None, source: ClaimSource) -> BaseClaim:
    """Return the claim of a Dockerfile's FROM or a user's option; without a digest unless it is pinned there."""
    if reference is None:
        return BaseClaim(None, None, source, ClaimKind.INFERRED)
    return BaseClaim(reference.by_tag, reference.digest, source, ClaimKind.INFERRED)


class _Predicate(msgspec.Struct, rename="camel"):
    build_definition: dict[str, Any] = {}
    materials: Any = None


class _Statement(msgspec.Struct, rename="camel"):
    predicate_type: str = ""
    predicate: _Predicate = msgspec.field(default_factory=_Predicate)


def claims_from_provenance(raw: bytes) -> tuple[BaseClaim, ...]:
    """Return the images in a build's SLSA provenance (v0.2 or v1), without frontends; () if it is no provenance.

    Provenance does not say which of them the last stage is based on; that is decided by the layers. A build without any
    image or other package was made from scratch.
    """
    try:
        statement = decode(raw[: MAX_STATEMENT_BYTES + 1], _Statement)
    except ValueError:
        return ()
    if "slsa.dev/provenance" not in statement.predicate_type:
        return ()
    listed = statement.predicate.build_definition.get("resolvedDependencies") or statement.predicate.materials
    materials = listed if isinstance(listed, list) else []
    images = dict.fromkeys(
        claim for material in materials if isinstance(material, dict) for claim in _material(material)
    )
    if isinstance(listed, list) and not any(_is_package(material) for material in materials):
        return (BaseClaim(None, None, ClaimSource.PROVENANCE),)
    return tuple(images) if len(images) <= MAX_IMAGES else ()  # with too many, none can be ruled out as the base


def _material(material: Mapping[str, Any]) -> Iterator[BaseClaim]:
    uri, digests = material.get("uri"), material.get("digest")
    if not isinstance(uri, str) or not isinstance(digests, dict):
        return
    sha256 = digests.get("sha256")
    reference = _package(uri)
    if reference is None or not isinstance(sha256, str) or _is_sha256(sha256) is None or reference.name in _FRONTENDS:
        return
    yield BaseClaim(reference.by_tag, Digest("sha256", sha256), ClaimSource.PROVENANCE)


def _is_package(material: object) -> bool:
    """Return whether a build input may be an image: a package other than the frontends, or not readable."""
    uri = material.get("uri") if isinstance(material, dict) else None
    if not isinstance(uri, str):
        return True
    reference = _package(uri)
    return uri.startswith(("pkg:", "oci", "docker")) and (reference is None or reference.name not in _FRONTENDS)


def _package(uri: str) -> Reference | None:
    """Return the image of a package URL such as `pkg:docker/node@16.13?platform=linux%2Famd64`."""
    rest = uri.removeprefix("pkg:docker/")
    if rest == uri:
        return None
    path, _, query = rest.partition("?")
    name, _, version = path.partition("@")
    name, version = unquote(name), unquote(version)
    if not version:
        version = parse_qs(query).get("tag", [""])[0]
    try:
        return Reference.parse(f"{name}:{version}" if version and "sha256" not in version else name)
    except Invalid:
        return None


def _recorded(name: str, digest: str, source: ClaimSource) -> BaseClaim | None:
    if not name:
        return None
    if name == SCRATCH:
        return BaseClaim(None, None, source)
    try:
        reference = Reference.parse(name)
        return BaseClaim(reference.by_tag, Digest.parse(digest) if digest else reference.digest, source)
    except Invalid:  # free text that is not a reference: no claim
        return None
