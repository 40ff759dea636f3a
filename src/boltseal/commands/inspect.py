"""Read the documents of an image: manifests, config and referrers; its layers only for its packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.image_contents import ImageContents, read_contents
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask_followed
from boltseal.commands.trusted_keys import trusted_signers
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.policy.evidence_findings import EvidenceFinding, evidence_findings
from boltseal.policy.requirements import SignedBy, TrustedSigner, judge_evidence, trusted_roots
from boltseal.signatures.signed_image import SignedImage
from boltseal.transfer.evidence import read_evidence
from boltseal.transfer.inspect import Inspected, inspect
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.protocols import ImageSource


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """The signatures and attestations of an image under given signers. `missing`: those that have not signed it."""

    findings: tuple[EvidenceFinding, ...]
    missing: tuple[str, ...]


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

    `contents`: read its layers too. `signed_by`: public keys and identities to verify its signatures with (`trusted_keys`).

    Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the location.
    """
    signers = trusted_signers(signed_by)
    if signers and (location.kind is not LocationKind.REGISTRY or location.reference is None):
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
                await _verified(source, location, digest, signers) if signers else None,
            )

    registries = [] if location.reference is None else [location.reference.registry]
    return ask_followed(options, registries, read)


async def _verified(
    source: ImageSource, location: Location, digest: Digest, signers: tuple[TrustedSigner, ...]
) -> VerifiedEvidence | None:
    if location.reference is None:
        return None
    image = SignedImage(location.reference.repository, digest)
    evidence = await read_evidence(source, digest)
    required = [SignedBy(signer) for signer in signers]
    keyless = await KeylessVerifier().results(trusted_roots(required), evidence)
    missing = judge_evidence(required, image, evidence, keyless=keyless).missing
    findings = tuple(evidence_findings(signers, image, evidence, keyless))
    return VerifiedEvidence(findings, tuple(each.what for each in missing))


async def _resolved(transport: Transport, source: ImageSource, location: Location) -> tuple[Digest, str]:
    """Return the digest of the image, and when its tag is sealed if it is settling, from one answer."""
    named = location.reference
    if location.kind is not LocationKind.REGISTRY or named is None or named.tag is None or named.digest is not None:
        return await source.resolve(name_within(location)), ""
    found = await RegistryClient(transport, named.registry).resolve_explained(named.repository, named.tag)
    return found.digest, found.settles
