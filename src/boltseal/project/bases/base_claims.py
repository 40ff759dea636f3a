"""What is said of an image's base, and by whom: claims, the best first. Pure.

    recorded   written down when it was built: our own `claim_from_entries` entries; annotations and labels
               (`org.opencontainers.image.base.name`, `.digest`); BuildKit's provenance
    proven     by its layers (`match`)
    inferred   from FROM in a Dockerfile that somebody says it was built of, or from a name that somebody gave

A claim is as good as whoever made it: a label is inherited by every image that is built on the labelled one, unless it also
says of which image it speaks (`boltseal.image`), and provenance names the images of all stages. What can be held against the layers is (`match.holds`).
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
"""Keys of a `claim_from_entries` entry's extra."""
MAX_STATEMENT_BYTES: Final = 8 * 1024 * 1024
MAX_IMAGES: Final = 200
"""Of how many images a build may be said to be made; of more, nothing is believed."""
SCRATCH: Final = "scratch"

_FRONTENDS: Final = frozenset({"docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream"})
"""Images that build and are no part of what is built: named by `# syntax=`."""
_is_sha256 = re.compile(r"[0-9a-f]{64}").fullmatch


class ClaimKind(StrEnum):
    """How sure it is which image the base is."""

    RECORDED = "recorded"
    PROVEN = "proven"
    INFERRED = "inferred"


class ClaimSource(StrEnum):
    """Who says so; the earlier is believed more."""

    BUILT = "a claim_from_entries entry of the ledger"
    ANNOTATION = "an annotation of the manifest"
    PROVENANCE = "the build's provenance"
    CAME_WITH = "a label that came with it"
    LABEL = "a label"
    LAYERS = "its layers"
    GIVEN = "--base"
    DOCKERFILE = "the Dockerfile"


@dataclass(frozen=True, slots=True)
class BaseClaim:
    """Somebody's word on a base. `base`: a name with a tag and no digest; None: it was built on nothing (scratch).

    `digest`: what the name meant then, of an index or of one platform's manifest; None where that is not said.
    """

    base: Reference | None
    digest: Digest | None
    by: ClaimSource
    how: ClaimKind = ClaimKind.RECORDED

    @property
    def sure(self) -> bool:
        """Whether nothing in it needs to be held against the layers: it was said of this image and no other."""
        return self.by in (ClaimSource.BUILT, ClaimSource.ANNOTATION)


def claim_from_annotations(annotations: Mapping[str, str]) -> BaseClaim | None:
    """What annotations of the image's index or manifest say."""
    return _spoken(annotations.get(BASE_NAME, ""), annotations.get(BASE_DIGEST, ""), ClaimSource.ANNOTATION)


def claim_from_labels(facts: ImageFacts) -> BaseClaim | None:
    """What labels of the image say."""
    return _spoken(facts.labels.get(BASE_NAME, ""), facts.labels.get(BASE_DIGEST, ""), ClaimSource.LABEL)


def inherited_claim(facts: ImageFacts, own: Reference) -> BaseClaim | None:
    """The image that the labels speak of, where they say that it is another one than `own`: they came with it.

    That is the image on which this one was built, or this very image before somebody copied it elsewhere.
    """
    said = facts.labels.get(IMAGE, "")
    try:
        image = Reference.parse(said).by_tag if said else None
    except Invalid:
        return None
    if image is None or image.repository == own.repository:
        return None
    return BaseClaim(image, None, ClaimSource.CAME_WITH)


def claim_from_entries(entries: Iterable[Entry], digest: Digest) -> BaseClaim | None:
    """What the newest `claim_from_entries` entry of an image says, the oldest entry first."""
    said = [entry for entry in entries if entry.kind is EntryKind.BUILT and entry.digest == str(digest)]
    if not said:
        return None
    return _spoken(said[-1].extra.get(BUILT_NAME, ""), said[-1].extra.get(BUILT_DIGEST, ""), ClaimSource.BUILT)


def claim_from_reference(reference: Reference | None, by: ClaimSource) -> BaseClaim:
    """What a Dockerfile builds on, or the user names: nobody says what it meant then, unless it is pinned there."""
    if reference is None:
        return BaseClaim(None, None, by, ClaimKind.INFERRED)
    return BaseClaim(reference.by_tag, reference.digest, by, ClaimKind.INFERRED)


class _Predicate(msgspec.Struct, rename="camel"):
    build_definition: dict[str, Any] = {}
    materials: list[Any] = []


class _Statement(msgspec.Struct, rename="camel"):
    predicate_type: str = ""
    predicate: _Predicate = msgspec.field(default_factory=_Predicate)


def claims_from_provenance(raw: bytes) -> tuple[BaseClaim, ...]:
    """The images that a build took in, by its SLSA provenance (v0.2 or v1), without frontends; () where it says none.

    Which of them the last stage stands on is not said: `match` decides by the layers.
    """
    try:
        said = decode(raw[: MAX_STATEMENT_BYTES + 1], _Statement)
    except ValueError:
        return ()
    if "slsa.dev/provenance" not in said.predicate_type:
        return ()
    listed = said.predicate.build_definition.get("resolvedDependencies") or said.predicate.materials
    materials = listed if isinstance(listed, list) else []
    images = dict.fromkeys(claim for one in materials if isinstance(one, dict) for claim in _material(one))
    return tuple(images) if len(images) <= MAX_IMAGES else ()  # the base may be any of them: some prove nothing


def _material(one: Mapping[str, Any]) -> Iterator[BaseClaim]:
    uri, digests = one.get("uri"), one.get("digest")
    if not isinstance(uri, str) or not isinstance(digests, dict):
        return
    sha256 = digests.get("sha256")
    reference = _package(uri)
    if reference is None or not isinstance(sha256, str) or _is_sha256(sha256) is None or reference.name in _FRONTENDS:
        return
    yield BaseClaim(reference.by_tag, Digest("sha256", sha256), ClaimSource.PROVENANCE)


def _package(uri: str) -> Reference | None:
    """The image that a package URL names: `pkg:docker/node@16.13?platform=linux%2Famd64`; a registry's port is escaped."""
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


def _spoken(name: str, digest: str, by: ClaimSource) -> BaseClaim | None:
    if not name:
        return None
    if name == SCRATCH:
        return BaseClaim(None, None, by)
    try:
        reference = Reference.parse(name)
        return BaseClaim(reference.by_tag, Digest.parse(digest) if digest else reference.digest, by)
    except Invalid:  # somebody's free text: it names no image, so it says nothing
        return None
