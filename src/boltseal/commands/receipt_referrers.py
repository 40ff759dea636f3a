"""Attach the receipt of a tag to its image, and find receipts that are attached to an image of any registry."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace

from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.receipts import fetch_attestation
from boltseal.client.transport import Transport
from boltseal.commands.ledger_receipt import check_resolves, contradiction, tag_of
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask, ask_followed, followed
from boltseal.errors import Invalid, NotFound
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import VerifiedReceipt
from boltseal.ledger.receipt_attestation import VerifiedAttestation, open_attestation
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.transfer.receipt_referrers import attach, read_statements, receipt_manifest
from boltseal.transfer.remote import RepositoryLocation


@dataclass(frozen=True, slots=True)
class AttachedReceipt:
    """A receipt that is attached to its image. `referrer`: its manifest; `added`: False if it was there before."""

    receipt: VerifiedReceipt
    referrer: Digest
    added: bool


@dataclass(frozen=True, slots=True)
class FoundReceipt:
    """A verified statement, its bytes, and the manifest that it was found in."""

    verified: VerifiedAttestation
    raw: bytes
    referrer: Digest


@dataclass(frozen=True, slots=True)
class ReceiptSearch:
    """The result of a search: the newest receipt of the tag, None if there is none. `refused`: why others do not count."""

    digest: Digest
    found: FoundReceipt | None
    refused: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """HOLDS if a receipt proves the tag."""
        return Outcome.DIFFERS if self.found is None else Outcome.HOLDS


def attach_receipt(reference: Reference, options: RegistryOptions) -> AttachedReceipt:
    """Attach a statement about what a tag resolves to now to the image, unless one about the same entry is attached.

    Raises: ReferenceUnsuitable: no tag; NotFound: the tag resolves to another digest than the reference's; NotTrusted,
    LedgerBroken, RemoteRefused.
    """
    tag = tag_of(reference)
    return ask(options, [reference.registry], lambda transport: _attach(options, transport, reference, tag))


async def _attach(options: RegistryOptions, transport: Transport, reference: Reference, tag: Tag) -> AttachedReceipt:
    def follow(registry: str) -> Awaitable[LedgerCheck]:
        return followed(options, transport, registry)

    fetched = await fetch_attestation(transport, reference.registry, reference.repository, tag, follow)
    receipt = fetched.verified.receipt
    digest = check_resolves(reference, receipt)
    location = RepositoryLocation(transport, reference.registry, reference.repository)
    async for referrer, raw in read_statements(location, digest):
        try:
            known = open_attestation(raw, fetched.key)
        except Invalid:  # by a former key of the ledger, or by an attacker
            continue
        if (known.receipt.index, known.key) == (receipt.index, fetched.verified.key):
            return AttachedReceipt(receipt, referrer, added=False)
    manifest = receipt_manifest(fetched.raw, receipt, await location.manifest(digest))
    return AttachedReceipt(receipt, await attach(location, fetched.raw, manifest), added=True)


def find_receipt(
    reference: Reference,
    key: VerifierKey,
    witnesses: Sequence[VerifierKey],
    expected: Reference | None,
    options: RegistryOptions,
) -> ReceiptSearch:
    """Find the newest receipt, attached to an image of any registry, which proves that the tag resolves to this image.

    `key`: of the ledger. `witnesses`: keys of witnesses that must have cosigned it. `expected`: the repository and tag in the ledger,
    if they are not those of `reference`.

    Raises: ReferenceUnsuitable: no tag is expected; NotFound: there is no such image, or the digest of `expected` is another one.
    """
    expected = reference if expected is None else expected
    tag_of(expected)

    async def find(transport: Transport) -> ReceiptSearch:
        location = RepositoryLocation(transport, reference.registry, reference.repository)
        digest = (
            await location.resolve(None if reference.tag is None else str(reference.tag))
            if reference.digest is None
            else reference.digest
        )
        if expected.digest not in (None, digest):
            raise NotFound(f"{reference.name} resolves to {digest}; expected {expected.digest}")
        return await _search(location, digest, key, witnesses, replace(expected, digest=digest))

    return ask_followed(options, [reference.registry], find)


async def _search(
    location: RepositoryLocation,
    digest: Digest,
    key: VerifierKey,
    witnesses: Sequence[VerifierKey],
    expected: Reference,
) -> ReceiptSearch:
    found: list[FoundReceipt] = []
    refused: list[str] = []
    async for referrer, raw in read_statements(location, digest):
        try:
            verified = open_attestation(raw, key, witnesses)
            reason = contradiction(verified.receipt, witnesses, expected)
        except Invalid as error:
            reason = error.message
        else:
            if not reason:
                found.append(FoundReceipt(verified, raw, referrer))
        if reason:
            refused.append(f"{referrer}: {reason}")
    newest = max(found, key=lambda each: each.verified.receipt.index, default=None)
    return ReceiptSearch(digest, newest, tuple(refused))
