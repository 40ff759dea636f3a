"""How far an image is proven, and by whom. The levels are never mixed:

    L0   it holds together; whoever changed all of it at once is not found
    L1   it is what a person wrote down: an image ID, a digest
    L2   it is what a ledger's signed checkpoint says the tag means, shown by a receipt

A digest that is expected proves an image only by a chain of documents whose bytes have the digests that name them:
index -> manifest -> config. Where those lie does not matter, and no list of the store is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from boltseal.engines.safe_open import StoreMalformed
from boltseal.errors import Invalid, quote
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.json_documents import read_manifest
from boltseal.host.scrub.plans import ImagePlan
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid
from boltseal.oci.reference import NameInvalid, Reference, Repository, Tag

MAX_STEPS: Final = 1000


class Level(StrEnum):
    """What an expected value rests on."""

    L0 = "L0"
    L1 = "L1"
    L2 = "L2"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an image must be: what `digest`, or one of `also`, leads to, or one of `ids` where all of them are known.

    `of_manifest`: the digest is surely that of a manifest or index, never an image ID. `repository` and `tag`: whose meaning
    a ledger or a lock states, with `registry` where it does; None where a person gave a digest for what they named.
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
        """Whether it speaks of what a local name means."""
        reference = local_reference(name)
        if reference is None or self.tag is None or self.registry not in (None, reference.registry):
            return False
        return (reference.repository, reference.tag) == (self.repository, self.tag)


@dataclass(frozen=True, slots=True)
class TrustJudgement:
    """How far an image is proven against an expectation, as long as nothing in it differs."""

    level: Level
    by: str = ""
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = field(default=())


def judge(image: ImagePlan, expected: Expectation | None, documents: Mapping[Digest, bytes]) -> TrustJudgement:
    """Hold an image against what it must be. `documents`: manifests and indexes from elsewhere, under their digests."""
    if expected is None:
        return TrustJudgement(Level.L0)
    if image.config in expected.ids:
        return TrustJudgement(expected.level, expected.by)
    known = {**documents, **image.documents}
    for digest in (expected.digest, *expected.also):
        if image.config in (digest, *configs_of(digest, image.documents), *configs_of(digest, documents)):
            return TrustJudgement(expected.level, expected.by)
        if image.config in configs_of(digest, known):
            return TrustJudgement(expected.level, expected.by)
    reached = configs_of(expected.digest, known) or list(expected.ids)
    if reached:
        found = difference(_kind(expected), b"", f"image {_listed(reached)}, by {expected.by}", f"image {image.config}")
        return TrustJudgement(Level.L0, expected.by, (found,))
    if image.documents or (not expected.of_manifest and not _recorded(image, expected.digest)):
        got = image.id if image.id == image.config else f"{image.id} with config {image.config}"
        found = difference(_kind(expected), b"", f"{expected.digest}, by {expected.by}", got)
        return TrustJudgement(Level.L0, expected.by, (found,))
    return TrustJudgement(
        Level.L0,
        expected.by,
        unknown=(
            f"this store keeps no manifests, and none with the digest {expected.digest.short} was given: "
            "name it with --documents (an OCI layout or archive that holds the manifest)",
        ),
    )


def _kind(expected: Expectation) -> DifferenceKind:
    return DifferenceKind.TAG if expected.tag is not None else DifferenceKind.MANIFEST


def _listed(digests: list[Digest]) -> str:
    return " or ".join(str(each) for each in digests[:5])


def _recorded(image: ImagePlan, digest: Digest) -> bool:
    """Whether the store says that it pulled this image by this digest; a hint for the message, and no proof."""
    return any(name.endswith(f"@{digest}") for name in image.names)


def configs_of(start: Digest, documents: Mapping[Digest, bytes]) -> list[Digest]:
    """The configs that documents lead to from a digest. A document whose bytes have another digest leads nowhere."""
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
    """A name as an engine keeps it; None for one that is no reference."""
    try:
        return Reference.parse(name)
    except (NameInvalid, Invalid):
        return None


def is_id(typed: str) -> bool:
    """Whether a person typed an image's ID, or the beginning of one."""
    bare = typed.removeprefix("sha256:")
    return len(bare) >= MIN_ID and all(c in "0123456789abcdef" for c in bare)


def names_image(typed: str, image: ImagePlan) -> bool:
    """Whether what a person typed means this image: its ID or the beginning of it, or one of its names."""
    text = typed.partition("@")[0] if "@" in typed else typed
    if is_id(typed):
        return any(each.hex.startswith(typed.removeprefix("sha256:")) for each in (image.id, image.config))
    try:
        wanted = Reference.parse(text)
    except Invalid as error:
        raise NameInvalid(f"{quote(typed)} is neither an image's name nor its ID: {error.message}") from error
    digest = typed.partition("@")[2]
    tag = wanted.tag or (None if digest else Tag("latest"))
    for name in image.names:
        if name == text:  # a layout calls an image as it likes, and says that name in its report
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
