"""Attach the receipt of a tag to its image, and find receipts that are attached to an image of any registry."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.receipts import FetchedAttestation, fetch_attestation
from boltseal.client.transport import Transport
from boltseal.commands.ledger_receipt import check_resolves, contradiction, tag_of
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask, ask_followed, followed
from boltseal.errors import Invalid, NotFound, Unavailable
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import VerifiedReceipt
from boltseal.ledger.receipt_attestation import AttestationInvalid, VerifiedAttestation, open_attestation
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.transfer.receipt_referrers import (
    AttachedStatement,
    ReceiptsUnread,
    attach,
    read_statements,
    receipt_manifest,
)
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


class NotCosigned(Unavailable):
    """A witness has not cosigned the receipt, and may do so soon. Nothing was attached."""


def attach_receipt(reference: Reference, witnesses: Sequence[VerifierKey], options: RegistryOptions) -> AttachedReceipt:
    """Attach a statement about what a tag resolves to now to the image, unless one about the same entry is attached.

    `witnesses`: keys of witnesses that must have cosigned it.

    Raises: ReferenceUnsuitable: no tag; NotFound: the tag resolves to another digest than the reference's; NotCosigned, NotTrusted,
    LedgerBroken, RemoteRefused.
    """
    tag = tag_of(reference)
    return ask(options, [reference.registry], lambda transport: _attach(options, transport, reference, tag, witnesses))


async def _attach(
    options: RegistryOptions, transport: Transport, reference: Reference, tag: Tag, witnesses: Sequence[VerifierKey]
) -> AttachedReceipt:
    def follow(registry: str) -> Awaitable[LedgerCheck]:
        return followed(options, transport, registry)

    fetched = await fetch_attestation(transport, reference.registry, reference.repository, tag, follow, witnesses)
    receipt = fetched.verified.receipt
    digest = check_resolves(reference, receipt)
    missing = contradiction(receipt, witnesses, None)
    if missing:
        raise NotCosigned(f"the receipt of {reference.name}:{tag}: {missing}; repeat the command when it has")
    location = RepositoryLocation(transport, reference.registry, reference.repository)
    with suppress(ReceiptsUnread):
        async for each in read_statements(location, digest):
            if _is_known(each, fetched, witnesses):
                return AttachedReceipt(receipt, each.referrer, added=False)
    manifest = receipt_manifest(fetched.raw, receipt, await location.manifest(digest))
    return AttachedReceipt(receipt, await attach(location, fetched.raw, manifest), added=True)


def _is_known(attached: AttachedStatement, fetched: FetchedAttestation, witnesses: Sequence[VerifierKey]) -> bool:
    """Return whether a statement about the same entry, by the same key and with the same witnesses, is attached already."""
    if attached.raw is None:
        return False
    try:
        known = open_attestation(attached.raw, fetched.key, witnesses)
    except Invalid:  # by a former key of the ledger, or by an attacker
        return False
    same = (known.receipt.index, known.key) == (fetched.verified.receipt.index, fetched.verified.key)
    return same and not contradiction(known.receipt, witnesses, None)


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

    Raises: ReferenceUnsuitable: no tag is expected; NotFound: there is no such image, or the digest of `expected` is another one;
    ReceiptsUnread: none of those that are read proves it, and there are more.
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
    try:
        async for each in read_statements(location, digest):
            try:
                found.append(_proven(each, key, witnesses, expected))
            except Invalid as error:
                refused.append(f"{each.referrer}: {error.message}")
    except ReceiptsUnread:
        if not found:
            raise
    newest = max(found, key=lambda each: each.verified.receipt.index, default=None)
    return ReceiptSearch(digest, newest, tuple(refused))


def _proven(
    attached: AttachedStatement, key: VerifierKey, witnesses: Sequence[VerifierKey], expected: Reference
) -> FoundReceipt:
    """Verify an attached statement. Raises: Invalid: it does not prove what is expected."""
    if attached.raw is None:
        raise AttestationInvalid(attached.problem)
    verified = open_attestation(attached.raw, key, witnesses)
    reason = contradiction(verified.receipt, witnesses, expected)
    if reason:
        raise AttestationInvalid(reason)
    return FoundReceipt(verified, attached.raw, attached.referrer)
