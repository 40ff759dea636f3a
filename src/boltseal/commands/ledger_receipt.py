"""Write the receipt of a tag, with its manifests and configs beside it, and verify one offline.

A receipt (C2SP tlog-proof) in FILE proves that a ledger has an entry; a statement (`ledger.receipt_attestation`) has a receipt in
it. `FILE.oci` has the manifests and configs that the entry's digest covers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.receipts import fetch_attestation, fetch_receipt
from boltseal.client.transport import Transport
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask, followed
from boltseal.errors import BoltsealError, Invalid, NotFound
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.entry import CHANGES
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import VerifiedReceipt, open_receipt
from boltseal.ledger.receipt_attestation import MAX_ATTESTATION_BYTES, is_attestation, open_attestation
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.signatures.public_keys import PublicKey
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

    `bundle`: the documents beside it, None where there are none. `signed_by`: the attestation key of a statement; None for a
    tlog-proof.
    """

    receipt: VerifiedReceipt | None
    bundle: Checked | None = None
    reason: str = ""
    signed_by: PublicKey | None = None

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


def write_receipt(
    reference: Reference, file: Path, options: RegistryOptions, *, statement: bool = False
) -> WrittenReceipt:
    """Fetch the receipt of what a tag resolves to now, verify it, and write it with its documents.

    `statement`: write a statement, which other tools verify. Raises: ReferenceUnsuitable: no tag; NotFound: the tag resolves to
    another digest than the reference's; NotTrusted, LedgerBroken, ReceiptInvalid.
    """
    tag = tag_of(reference)
    fetched = ask(
        options,
        [reference.registry],
        lambda transport: _fetch(options, transport, reference, tag, statement=statement),
    )
    entry, bundle = fetched.receipt.entry, bundle_of(file)
    manifest_bundle.replace_bytes(file, fetched.raw)
    digest = Digest.parse(entry.digest)
    manifest_bundle.write(bundle, fetched.documents, digest, entry.type, f"{reference.name}:{tag}")
    return WrittenReceipt(fetched.receipt, file, bundle, fetched.key_pinned)


async def _fetch(
    options: RegistryOptions, transport: Transport, reference: Reference, tag: Tag, *, statement: bool
) -> _Fetched:
    def follow(registry: str) -> Awaitable[LedgerCheck]:
        return followed(options, transport, registry)

    if statement:
        stated = await fetch_attestation(transport, reference.registry, reference.repository, tag, follow)
        raw, receipt, key_pinned = stated.raw, stated.verified.receipt, True
    else:
        raw, receipt, check = await fetch_receipt(transport, reference.registry, reference.repository, tag, follow)
        key_pinned = check.given
    digest = check_resolves(reference, receipt)
    location = RepositoryLocation(transport, reference.registry, reference.repository)
    documents = await manifest_bundle.collect(location, digest)
    return _Fetched(raw, receipt, documents, key_pinned)


def tag_of(reference: Reference) -> Tag:
    """Return the tag of a reference. Raises: ReferenceUnsuitable: it has none."""
    if reference.tag is None:
        raise ReferenceUnsuitable(f"the reference has no tag; expected one, such as {reference.name}:1.4.2")
    return reference.tag


def check_resolves(reference: Reference, receipt: VerifiedReceipt) -> Digest:
    """Return the digest that a receipt proves. Raises: NotFound: the reference has another one."""
    digest = Digest.parse(receipt.entry.digest)
    if reference.digest is not None and reference.digest != digest:
        raise NotFound(f"{reference.name}:{reference.tag} resolves to {digest}; expected {reference.digest}")
    return digest


def verify_receipt(
    file: Path, key: VerifierKey, witnesses: Sequence[VerifierKey], expected: Reference | None = None
) -> ReceiptCheck:
    """Verify a receipt or a statement with the ledger's key, and the documents beside it if they exist.

    `witnesses`: keys of witnesses that must have cosigned it. `expected`: the image that it has to be about. Raises: Invalid: the
    file can't be read.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_ATTESTATION_BYTES + 1)
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror}") from error
    try:
        signed_by = None
        if is_attestation(raw):
            stated = open_attestation(raw, key, witnesses)
            receipt, signed_by = stated.receipt, stated.key
        else:
            receipt = open_receipt(raw, key, list(witnesses))
        reason = contradiction(receipt, witnesses, expected)
        if reason:
            return ReceiptCheck(None, reason=reason)
        bundle, digest = bundle_of(file), receipt.entry.digest
        checked = manifest_bundle.check(bundle, Digest.parse(digest)) if digest and bundle.exists() else None
    except BoltsealError as error:
        return ReceiptCheck(None, reason=error.message)
    return ReceiptCheck(receipt, checked, signed_by=signed_by)


def contradiction(receipt: VerifiedReceipt, witnesses: Sequence[VerifierKey], expected: Reference | None) -> str:
    """Return why a valid receipt does not prove what is expected, "" if it does.

    The registry of `expected` is not compared: the key says of which ledger the receipt is.
    """
    missing = {witness.name for witness in witnesses} - {each.witness for each in receipt.signed.cosignatures}
    if missing:
        return f"{', '.join(sorted(missing))} did not cosign it"
    if expected is None:
        return ""
    entry = receipt.entry
    named = f"{entry.repository}:{entry.tag}"
    wanted = f"{expected.repository}:{tag_of(expected)}"
    if entry.kind in REMOVALS or entry.kind not in CHANGES:
        return f"it is about a {entry.kind}, by which no tag resolves to an image"
    if named != wanted:
        return f"it is about {named}; expected {wanted}"
    if expected.digest is not None and entry.digest != str(expected.digest):
        return f"it proves {entry.digest}; expected {expected.digest}"
    return ""
