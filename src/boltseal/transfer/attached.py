"""Find what is attached to an image: signatures, attestations, SBOMs and other referrers.

    referrers                          manifests whose subject is the image, by the referrers API or its fallback tag
    sha256-<hex>.sig, .att, .sbom      manifests that these tags of cosign resolve to

An image is here its manifest, the children of its index, and the referrers themselves: a signature of an SBOM is found too. At
most MAX_ATTACHED manifests of one image are carried, since each client that may push to the source can add some.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from boltseal.client.errors import RemoteMismatch
from boltseal.errors import BoltsealError, NotFound
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.transfer.moved_blobs import each_at_once
from boltseal.transfer.protocols import ContentDamaged, ImageSource

SIGNATURE_SUFFIXES: Final = (".sig", ".att", ".sbom")
MAX_ATTACHED: Final = 1000


@dataclass(frozen=True, slots=True)
class Attached:
    """A manifest that is attached to `subject`. `tag`: cosign's tag that resolves to it; None for a referrer."""

    subject: Digest
    digest: Digest
    kind: str
    tag: str | None = None

    @property
    def name(self) -> str:
        """The tag, else the digest."""
        return self.tag or str(self.digest)


@dataclass(frozen=True, slots=True)
class NotCarried:
    """What a copy did not carry along, and why. `attached`: None if what is attached to `subject` could not be listed."""

    subject: Digest
    attached: Attached | None
    error: BoltsealError

    @property
    def name(self) -> str:
        """The tag or digest of what is missing at the target."""
        return f"what is attached to {self.subject}" if self.attached is None else self.attached.name


@dataclass(slots=True)
class AttachedFound:
    """What is attached to an image, subjects before their own referrers, and what could not be found out."""

    found: list[Attached] = field(default_factory=list)
    failed: list[NotCarried] = field(default_factory=list)


async def find_attached(source: ImageSource, manifests: Iterable[Digest], at_once: int) -> AttachedFound:
    """Find what is attached to manifests, `at_once` manifests at a time. An error of the source is in the result.

    Raises: LedgerBroken.
    """
    result, seen = AttachedFound(), set[Digest]()
    subjects = list(dict.fromkeys(manifests))
    while subjects:
        found, failed = await _look_up(source, subjects, at_once)
        result.failed += failed
        subjects = []
        for each in found:
            if each.tag is None and each.digest in seen:
                continue
            if len(result.found) == MAX_ATTACHED:
                error = RemoteMismatch(f"{source.title} lists more than {MAX_ATTACHED} manifests attached to one image")
                result.failed.append(NotCarried(each.subject, None, error))
                return result
            result.found.append(each)
            if each.tag is None:
                seen.add(each.digest)
                subjects.append(each.digest)
    return result


async def _look_up(
    source: ImageSource, subjects: list[Digest], at_once: int
) -> tuple[list[Attached], list[NotCarried]]:
    """Return what is attached to subjects, in their order, and the subjects whose look-up failed."""
    listed: dict[Digest, list[Attached]] = {}
    failed: list[NotCarried] = []

    async def look_up(subject: Digest) -> None:
        try:
            listed[subject] = await _attached_to(source, subject)
        except LedgerBroken:
            raise
        except BoltsealError as error:
            failed.append(NotCarried(subject, None, error))

    await each_at_once(subjects, at_once, look_up)
    return [each for subject in subjects for each in listed.get(subject, ())], failed


async def _attached_to(source: ImageSource, subject: Digest) -> list[Attached]:
    found = []
    for suffix in SIGNATURE_SUFFIXES:
        tag = f"{subject.as_tag}{suffix}"
        try:
            found.append(Attached(subject, await source.resolve(tag), suffix[1:], tag))
        except NotFound:  # most images have none
            continue
    listed = await source.referrers(subject)
    return found + [Attached(subject, each.digest, each.artifact_type or each.media_type) for each in listed]


def check_subject(attached: Attached, manifest: Manifest, title: str) -> None:
    """Check that a referrer names the image it was listed for; at the target it is found by that alone. Raises: ContentDamaged."""
    if attached.tag is None and (manifest.subject is None or manifest.subject.digest != attached.subject):
        named = "no subject" if manifest.subject is None else f"subject {manifest.subject.digest}"
        raise ContentDamaged(
            f"{title} lists it as a referrer of {attached.subject}, but it has {named}: no registry would find it"
        )


def extends(new: Manifest, old: Manifest) -> bool:
    """Return whether the manifest of a signature tag has all signatures of another one.

    Two signers of one payload have the same layer and different annotations.
    """
    return _signatures(old) <= _signatures(new)


def _signatures(manifest: Manifest) -> set[tuple[Digest, frozenset[tuple[str, str]]]]:
    return {(layer.digest, frozenset(layer.annotations.items())) for layer in manifest.layers}
