"""Read the documents of an image: manifests, config and referrers; its layers only for its packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.image_contents import ImageContents, read_contents
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask_followed
from boltseal.commands.signed_by import signed_by as required_by
from boltseal.errors import Unavailable
from boltseal.keyless.verifier import KeylessUnavailable, KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.policy.evidence_findings import EvidenceFinding, evidence_findings
from boltseal.policy.keyless_signers import NO_RESULTS, KeylessNotVerified
from boltseal.policy.requirements import MissingEvidence, Requirement, judge_evidence, trusted_roots
from boltseal.signatures.signed_image import SignedImage
from boltseal.transfer.evidence import read_evidence
from boltseal.transfer.inspect import Inspected, inspect
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.protocols import ImageSource


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """The signatures and attestations of an image under requirements.

    `missing`: the requirements that do not hold. `unknown`: why others could not be checked.
    """

    findings: tuple[EvidenceFinding, ...]
    missing: tuple[MissingEvidence, ...]
    unknown: Unavailable | None = None


class InspectedImage(NamedTuple):
    """The documents of an image. `settles`: when its tag is sealed, if the tag is settling; otherwise "".

    `contents`: its packages and files; `evidence`: its signatures; each None if not asked for.
    """

    documents: Inspected
    settles: str
    contents: ImageContents | None = None
    evidence: VerifiedEvidence | None = None


def inspect_image(
    location: Location,
    platform: str | None,
    options: RegistryOptions,
    *,
    contents: bool = False,
    signed_by: tuple[str, ...] = (),
) -> InspectedImage:
    """Return the documents of an image at any location. `platform`: which image of an index, as `linux/amd64`.

    `contents`: read its layers too. `signed_by`: what its signatures have to be (`commands.signed_by`).

    Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the location.
    """
    required = required_by(signed_by)
    if required and (location.kind is not LocationKind.REGISTRY or location.reference is None):
        raise ReferenceUnsuitable(
            f"--signed-by needs an image of a registry: signatures name a repository, and {location.text} is in none"
        )

    async def read(transport: Transport) -> InspectedImage:
        async with opened_sources(options.client, transport, location) as (source,):
            digest, settles = await _resolved(transport, source, location)
            found = await inspect(source, digest, platform)
            return InspectedImage(
                found,
                settles,
                await read_contents(source, found) if contents else None,
                await _verified(source, location, found, required, options.client.now_us()) if required else None,
            )

    registries = [] if location.reference is None else [location.reference.registry]
    return ask_followed(options, registries, read)


async def _verified(
    source: ImageSource, location: Location, found: Inspected, required: tuple[Requirement, ...], now_us: int
) -> VerifiedEvidence | None:
    if location.reference is None:
        return None
    image = SignedImage(location.reference.repository, found.digest, found.manifest.media_type)
    evidence = await read_evidence(source, found.digest)
    keyless, unknown = NO_RESULTS, None
    try:
        keyless = await KeylessVerifier().results(trusted_roots(required), evidence)
    except KeylessUnavailable as error:
        unknown = error
    missing: list[MissingEvidence] = []
    doubts: list[Unavailable] = []
    for requirement in required:
        try:
            missing += judge_evidence([requirement], image, evidence, now_us, keyless).missing
        except KeylessNotVerified as error:
            doubts.append(unknown or error)
    findings = tuple(evidence_findings(required, image, evidence, now_us, keyless))
    return VerifiedEvidence(findings, tuple(missing), doubts[0] if doubts else None)


async def _resolved(transport: Transport, source: ImageSource, location: Location) -> tuple[Digest, str]:
    """Return the digest of the image, and when its tag is sealed if it is settling, from one answer."""
    named = location.reference
    if location.kind is not LocationKind.REGISTRY or named is None or named.tag is None or named.digest is not None:
        return await source.resolve(name_within(location)), ""
    found = await RegistryClient(transport, named.registry).resolve_explained(named.repository, named.tag)
    return found.digest, found.settles
