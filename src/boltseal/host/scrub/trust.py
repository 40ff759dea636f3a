"""Compares images with expected digests, and states by which evidence an image is proven. Levels are never mixed:

    L0   consistent in itself; an attacker who changed everything consistently is not detected
    B    files as the holder of a key recorded them in a baseline, where the store can't prove them by digests
    L1   the image ID or digest that a person or a lock recorded
    L2   the digest that a ledger's signed checkpoint has for the tag, shown by a receipt

An expected digest proves an image only by a chain of documents, each with the digest that refers to it: index -> manifest ->
config. It does not matter where the documents are stored, and lists in the store are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from boltseal.engines.json_documents import read_manifest
from boltseal.engines.safe_open import StoreMalformed
from boltseal.errors import Invalid, quote
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.plans import ImagePlan
from boltseal.lockfile.container_check import MARK_REGISTRY
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid
from boltseal.oci.reference import NameInvalid, Reference, Repository, Tag

MAX_STEPS: Final = 1000
PROVING_DIGITS: Final = 32
"""128 bits; two images with the same 12 digits, as engines shorten IDs, take a few hours to find."""


class Level(StrEnum):
    """The evidence of an expected value; see the module's docstring."""

    L0 = "L0"
    B = "B"
    L1 = "L1"
    L2 = "L2"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an image must be: the config that `digest` or one of `also` refers to, or one of `ids` if they are all known.

    `of_manifest`: whether the digest is of a manifest or index, never an image ID. `repository`, `tag`, `registry`: the tag
    that a ledger or lock resolves, as far as it names them; None if a person gave a digest for a named image.
    """

    digest: Digest
    level: Level
    by: str
    of_manifest: bool = False
    repository: Repository | None = None
    tag: Tag | None = None
    registry: str | None = None
    also: tuple[Digest, ...] = ()
    ids: tuple[Digest, ...] = ()

    def about(self, name: str) -> bool:
        """Return whether it applies to a local image name."""
        reference = local_reference(name)
        if reference is None or self.tag is None or self.registry not in (None, reference.registry):
            return False
        return (reference.repository, reference.tag) == (self.repository, self.tag)


@dataclass(frozen=True, slots=True)
class ExpectedPrefix:
    """The first hexadecimal digits of the ID or digest that a person gave for an image, as engines print them."""

    digits: str
    by: str

    def judge(self, image: ImagePlan) -> TrustJudgement:
        """Compare an image's ID, the digest of its config, and those of the manifests from which its config follows.

        A match with fewer than PROVING_DIGITS proves nothing: an attacker can find another image with the same digits.
        """
        manifests = (each for each in image.documents if image.config in configs_of(each, image.documents))
        if not any(each.hex.startswith(self.digits) for each in (image.config, *manifests)):
            by = f"{self.digits}..., by {self.by}"
            got = image.id if image.id == image.config else f"{image.id} with config {image.config}"
            return TrustJudgement(Level.L0, self.by, (difference(DifferenceKind.MANIFEST, b"", by, got),))
        if len(self.digits) >= PROVING_DIGITS:
            return TrustJudgement(Level.L1, self.by)
        reason = f"the first {len(self.digits)} digits, which another image could have too: L1 needs at least {PROVING_DIGITS}"
        return TrustJudgement(Level.L0, f"{self.by}: {reason}")


@dataclass(frozen=True, slots=True)
class TrustJudgement:
    """How far an image is proven by an expectation, provided that none of its files differ.

    `lacks_manifest`: whether it could not be judged, because no manifest with the expected digest is known.
    """

    level: Level
    by: str = ""
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = field(default=())
    lacks_manifest: bool = False


def judge(
    image: ImagePlan, expected: Expectation | ExpectedPrefix | None, documents: Mapping[Digest, bytes]
) -> TrustJudgement:
    """Compare an image with what it must be. `documents`: manifests and indexes from other sources, by digest."""
    if expected is None:
        return TrustJudgement(Level.L0)
    if isinstance(expected, ExpectedPrefix):
        return expected.judge(image)
    known = {**documents, **image.documents}
    proven = {*expected.ids}
    for digest in (expected.digest, *expected.also):
        proven |= {
            digest,
            *configs_of(digest, image.documents),
            *configs_of(digest, documents),
            *configs_of(digest, known),
        }
    if image.config in proven:
        return TrustJudgement(expected.level, expected.by)
    if not proven.isdisjoint(image.copy_of):
        return TrustJudgement(expected.level, f"{expected.by}; it is a copy with an empty layer below (pull --replace)")
    reached = configs_of(expected.digest, known) or list(expected.ids)
    if reached:
        found = difference(_kind(expected), b"", f"image {_listed(reached)}, by {expected.by}", f"image {image.config}")
        return TrustJudgement(Level.L0, expected.by, (found,))
    if (image.documents and not image.copy_of) or (not expected.of_manifest and not _recorded(image, expected.digest)):
        got = image.id if image.id == image.config else f"{image.id} with config {image.config}"
        found = difference(_kind(expected), b"", f"{expected.digest}, by {expected.by}", got)
        return TrustJudgement(Level.L0, expected.by, (found,))
    return TrustJudgement(
        Level.L0,
        expected.by,
        unknown=(
            f"this store has no manifests, and no manifest {expected.digest.short} was given: pass an OCI layout or archive "
            "with the manifest by --documents",
        ),
        lacks_manifest=True,
    )


def _kind(expected: Expectation) -> DifferenceKind:
    return DifferenceKind.TAG if expected.tag is not None else DifferenceKind.MANIFEST


def _listed(digests: list[Digest]) -> str:
    return " or ".join(str(each) for each in digests[:5])


def _recorded(image: ImagePlan, digest: Digest) -> bool:
    """Return whether the store claims to have pulled this image by this digest; only a hint for the message."""
    return any(name.endswith(f"@{digest}") for name in image.names)


def configs_of(start: Digest, documents: Mapping[Digest, bytes]) -> list[Digest]:
    """Return the configs that documents refer to from a digest; documents with another digest are ignored."""
    found: list[Digest] = []
    seen: set[Digest] = set()
    todo = [start]
    while todo and len(seen) < MAX_STEPS:
        at = todo.pop()
        raw = documents.get(at)
        if at in seen or raw is None or Digest.of(raw, at.algorithm) != at:
            continue
        seen.add(at)
        try:
            manifest = read_manifest(raw)
        except (ManifestInvalid, StoreMalformed):
            continue
        todo += [child.digest for child in manifest.manifests]
        if manifest.config is not None:
            found.append(manifest.config.digest)
    return found


def local_reference(name: str) -> Reference | None:
    """Parse an engine's image name; None if it is not a reference, or a digest that the engine made up for a mark of evidence."""
    try:
        reference = Reference.parse(name)
    except (NameInvalid, Invalid):
        return None
    return None if reference.registry == MARK_REGISTRY and reference.tag is None else reference


def is_id(typed: str) -> bool:
    """Return whether text is an image ID or a prefix of one."""
    bare = typed.removeprefix("sha256:")
    return len(bare) >= MIN_ID and all(c in "0123456789abcdef" for c in bare)


def names_image(typed: str, image: ImagePlan) -> bool:
    """Return whether text selects this image: by its ID, a prefix of it, or one of its names."""
    text = typed.partition("@")[0] if "@" in typed else typed
    if is_id(typed):
        return any(each.hex.startswith(typed.removeprefix("sha256:")) for each in (image.id, image.config))
    try:
        wanted = Reference.parse(text)
    except Invalid as error:
        raise NameInvalid(f"{quote(typed)} is not an image name or ID: {error.message}") from error
    digest = typed.partition("@")[2]
    tag = wanted.tag or (None if digest else Tag("latest"))
    for name in image.names:
        if name == text:  # names in a layout are free text
            return True
        found = local_reference(name)
        if found is None:
            continue
        same = found.name == wanted.name or (
            found.registry == "localhost" and found.repository == text.partition(":")[0]
        )
        if same and (found.tag == tag if tag is not None else True):
            return True
    return False


MIN_ID: Final = 6
