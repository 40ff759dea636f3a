"""Write the receipt of a tag, with its manifests and configs beside it, and verify one offline.

A receipt (C2SP tlog-proof) in FILE proves that a ledger has an entry. `FILE.oci` has the manifests and configs that the
entry's digest covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boltseal.client.receipts import fetch_receipt
from boltseal.client.transport import Transport
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask, followed
from boltseal.errors import BoltsealError, Invalid, NotFound
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import MAX_RECEIPT_BYTES, VerifiedReceipt, open_receipt
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.transfer import manifest_bundle
from boltseal.transfer.manifest_bundle import Checked
from boltseal.transfer.remote import RepositoryLocation


@dataclass(frozen=True, slots=True)
class WrittenReceipt:
    """A receipt that was fetched, verified and written. `key_pinned`: it was verified with a pinned key."""

    receipt: VerifiedReceipt
    file: Path
    bundle: Path
    key_pinned: bool


@dataclass(frozen=True, slots=True)
class ReceiptCheck:
    """A receipt that was verified offline: `receipt` is None where `reason` says why it is invalid.

    `bundle`: the documents beside it, None where there are none.
    """

    receipt: VerifiedReceipt | None
    bundle: Checked | None = None
    reason: str = ""

    @property
    def outcome(self) -> Outcome:
        """HOLDS for a valid receipt."""
        return Outcome.DIFFERS if self.receipt is None else Outcome.HOLDS


@dataclass(frozen=True, slots=True)
class _Fetched:
    raw: bytes
    receipt: VerifiedReceipt
    documents: dict[Digest, bytes]
    key_pinned: bool


def bundle_of(file: Path) -> Path:
    """Return the path of the documents beside a receipt."""
    return file.with_name(f"{file.name}.oci")


def write_receipt(reference: Reference, file: Path, options: RegistryOptions) -> WrittenReceipt:
    """Fetch the receipt of what a tag resolves to now, verify it, and write it with its documents.

    Raises: ReferenceUnsuitable: no tag; NotFound: the tag resolves to another digest than the reference's;
    LedgerBroken, ReceiptInvalid.
    """
    tag = reference.tag
    if tag is None:
        raise ReferenceUnsuitable(f"the reference has no tag; expected one, such as {reference.name}:1.4.2")
    fetched = ask(options, [reference.registry], lambda transport: _fetch(options, transport, reference, tag))
    entry, bundle = fetched.receipt.entry, bundle_of(file)
    manifest_bundle.replace_bytes(file, fetched.raw)
    digest = Digest.parse(entry.digest)
    manifest_bundle.write(bundle, fetched.documents, digest, entry.type, f"{reference.name}:{tag}")
    return WrittenReceipt(fetched.receipt, file, bundle, fetched.key_pinned)


async def _fetch(options: RegistryOptions, transport: Transport, reference: Reference, tag: Tag) -> _Fetched:
    raw, receipt, check = await fetch_receipt(
        transport,
        reference.registry,
        reference.repository,
        tag,
        lambda registry: followed(options, transport, registry),
    )
    digest = Digest.parse(receipt.entry.digest)
    if reference.digest is not None and reference.digest != digest:
        raise NotFound(f"{reference.name}:{tag} resolves to {digest}; expected {reference.digest}")
    location = RepositoryLocation(transport, reference.registry, reference.repository)
    documents = await manifest_bundle.collect(location, digest)
    return _Fetched(raw, receipt, documents, check.given)


def verify_receipt(file: Path, key: VerifierKey, witnesses: Sequence[VerifierKey]) -> ReceiptCheck:
    """Verify a receipt with the ledger's key, and the documents beside it if they exist.

    `witnesses`: keys of witnesses that must have cosigned it. Raises: Invalid: the file can't be read.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror}") from error
    try:
        receipt = open_receipt(raw, key, list(witnesses))
        missing = {witness.name for witness in witnesses} - {each.witness for each in receipt.signed.cosignatures}
        if missing:
            return ReceiptCheck(None, reason=f"{', '.join(sorted(missing))} did not cosign it")
        bundle, digest = bundle_of(file), receipt.entry.digest
        checked = manifest_bundle.check(bundle, Digest.parse(digest)) if digest and bundle.exists() else None
    except BoltsealError as error:
        return ReceiptCheck(None, reason=error.message)
    return ReceiptCheck(receipt, checked)
