"""Manifests of signatures as clients push them, for `tests.images`."""

from __future__ import annotations

from typing import Any

from boltseal.oci.digest import Digest
from boltseal.signatures.dsse import COSIGN_SIGNATURE, ENVELOPE
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.simple_signing import SIGNATURE_ANNOTATION, SIMPLE_SIGNING
from tests.images import OCI_CONFIG, OCI_MANIFEST, Blob, Document, to_json
from tests.signatures import notation_certificates as notation
from tests.signatures.signers import Signer, encoded, simple_payload, statement
from tests.signatures.sigstore_services import Authority, Signing


def signatures(*layers: tuple[Blob, str], **more: Any) -> Document:
    """Return a manifest with one layer for each blob and its signature annotation."""
    own_config = Blob(b"{}", OCI_CONFIG)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": own_config.descriptor(),
        "layers": [blob.descriptor(annotations={SIGNATURE_ANNOTATION: value}) for blob, value in layers],
        **more,
    }
    return Document(to_json(body), OCI_MANIFEST, (own_config, *(blob for blob, _ in layers)))


def signed(subject: Document, signer: Signer, repository: str = "shop/app") -> Document:
    """Return what `cosign sign` puts under a signature tag."""
    payload = simple_payload(Digest.parse(subject.digest), f"localhost:5000/{repository}")
    return signatures((Blob(payload, SIMPLE_SIGNING), signer.signature_of(payload)))


def bundled(subject: Document, signer: Signer) -> Document:
    """Return what `cosign sign` of version 3 pushes as a referrer."""
    bundle = encoded(signer.bundle(encoded(statement(Digest.parse(subject.digest)))))
    return signatures((Blob(bundle, BUNDLE), ""), artifactType=BUNDLE, subject=subject.descriptor())


def attested(subject: Document, signer: Signer, predicate_type: str, predicate: dict[str, Any]) -> Document:
    """Return what `cosign attest` of version 2 puts under an attestation tag."""
    stated = statement(Digest.parse(subject.digest), predicate_type, predicate)
    return signatures((Blob(encoded(signer.envelope(encoded(stated))), ENVELOPE), ""))


def notarized(
    subject: Document,
    holder: notation.Holder,
    form: str,
    *,
    attached_to: Document | None = None,
    stamping: notation.Stamping | None = None,
) -> Document:
    """Return what `notation sign` pushes as a referrer. `form`: jws or cose. `attached_to`: another image than the signed one.

    `stamping`: returns the time stamp of a signature.
    """
    payload = notation.payload(subject.digest, subject.media_type)
    if form == "jws":
        blob = Blob(notation.jws(holder, payload, stamping=stamping), "application/jose+json")
    else:
        blob = Blob(notation.cose(holder, payload, stamping=stamping), "application/cose")
    shown = (attached_to or subject).descriptor()
    return signatures((blob, ""), artifactType="application/vnd.cncf.notary.signature", subject=shown)


def keyless(
    subject: Document,
    authority: Authority,
    how: Signing | None = None,
    predicate_type: str = COSIGN_SIGNATURE,
    predicate: dict[str, Any] | None = None,
    about: Document | None = None,
) -> Document:
    """Return what `cosign sign` and `cosign attest` push as a referrer for an identity. `about`: another image in its statement."""
    stated = encoded(statement(Digest.parse((about or subject).digest), predicate_type, predicate))
    bundle = encoded(authority.bundle(stated, how))
    return signatures((Blob(bundle, BUNDLE), ""), artifactType=BUNDLE, subject=subject.descriptor())
