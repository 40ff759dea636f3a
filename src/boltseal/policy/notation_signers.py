"""Requirements that a signature of the Notary Project meets. Pure.

    { ca = "acme-ca.pem", subject = "C=US, ST=WA, O=acme.example" }     a certificate of this subject, under this authority
    { ca = "acme-ca.pem", crl = "acme.crl", subject = "*" }             any certificate of the authority that is not revoked
    { ca = "acme-ca.pem", tsa = "tsa.pem", subject = "*" }              also if it has expired since a time-stamp authority saw it
    { signing_authority = "service.pem", subject = "..." }              made by a service that vouches for the signing time

`ca`, `signing_authority` and `tsa` are Notation's kinds of trust stores, `subject` its trusted identity `x509.subject`. The first two
can't be one file by accident: a certificate of the authority could vouch for any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.policy.keyless_signers import CheckedBundle, KeylessNotVerified, KeylessResults
from boltseal.signatures.certificate_chains import Authorities, AuthorityInvalid
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.notation import SigningScheme, TrustedSubject, verify_notation
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.subject_names import SubjectName
from boltseal.signatures.time_stamps import RefusedStamp, VerifiedStamp

CERTIFICATE_KEYS: Final = ("ca", "signing_authority", "subject", "crl", "tsa")
ANY_SUBJECT: Final = "*"


class NotationSignerInvalid(Invalid):
    """A requirement of a certificate that can't be read."""


@dataclass(frozen=True, slots=True)
class CertifiedBy:
    """A signature of the image by a certificate. `file`: of the authorities, without folders."""

    file: str
    trusted: TrustedSubject

    @property
    def signer_name(self) -> str:
        """The signer, in the reason why its signature does not suffice."""
        return self.file

    def verify(self, layer: EvidenceLayer, image: SignedImage, now_us: int, keyless: KeylessResults) -> Statement:
        """Return what a layer says about an image, if the certificate signed it.

        Raises:
            SignatureInvalid: it did not.
            KeylessNotVerified: the time stamp of the layer decides, and `keyless` has nothing about it.
        """

        def stamp() -> VerifiedStamp | RefusedStamp:
            stamps = self.trusted.time_stamps
            name = CheckedBundle("" if stamps is None else stamps.fingerprint, sha256(layer.raw).hexdigest())
            found = keyless.get(name)
            if not isinstance(found, VerifiedStamp | RefusedStamp):
                raise KeylessNotVerified("a time stamp was not verified; try again")
            return found

        return verify_notation(layer.media_type, layer.raw, image, self.trusted, now_us, stamp)

    def signed_by(self, statement: Statement) -> str:
        """Return the name of the signer of a statement that `verify` returned."""
        return f"{statement.holder} under {self.file}"

    def met_by(self, statement: Statement) -> bool:
        """Return whether a statement of the signer is what is required."""
        return statement.predicate_type is None

    def command(self, image: str) -> str:
        """Return the command that adds it."""
        return f"notation sign --key KEY {image}"

    def canonical(self) -> str:
        """Return the requirement as text that changes when its meaning does."""
        trusted = self.trusted
        stamps = "" if trusted.time_stamps is None else f" time stamps {trusted.time_stamps.fingerprint}"
        return f"{trusted.scheme} {trusted.authorities.fingerprint} subject {self._subject}{stamps}"

    @property
    def _subject(self) -> str:
        return ANY_SUBJECT if self.trusted.subject is None else str(self.trusted.subject)

    def __str__(self) -> str:
        whose = "any certificate" if self.trusted.subject is None else f"a certificate of {self._subject}"
        return f"a Notation signature by {whose} under {self.file} (sha256:{self.trusted.authorities.fingerprint[:12]})"


def parse_certified(table: Mapping[str, str], read_file: Callable[[str], bytes]) -> CertifiedBy:
    """Parse a requirement of a certificate, whose values are texts. Raises: NotationSignerInvalid."""
    for name in table:
        if name not in CERTIFICATE_KEYS:
            raise NotationSignerInvalid(f"{name} does not stand beside {' or '.join(CERTIFICATE_KEYS[:2])}")
    if "tsa" in table and "ca" not in table:
        raise NotationSignerInvalid("tsa stands beside ca: a signing authority vouches for the time itself")
    named = [name for name in CERTIFICATE_KEYS[:2] if name in table]
    if len(named) != 1:
        raise NotationSignerInvalid("expected one of ca and signing_authority: the file of the authority's certificate")
    if "subject" not in table:
        raise NotationSignerInvalid(
            'subject is missing: whose certificates count, such as "O=acme.example", or "*" for all'
        )
    file = table[named[0]]
    try:
        crl = read_file(table["crl"]) if "crl" in table else None
        authorities = Authorities.parse(read_file(file), crl)
        stamps = Authorities.parse(read_file(table["tsa"]), crl) if "tsa" in table else None
        subject = None if table["subject"] == ANY_SUBJECT else SubjectName.parse(table["subject"])
    except AuthorityInvalid as error:
        files = " and ".join(quote(table[name]) for name in (named[0], "tsa", "crl") if name in table)
        raise NotationSignerInvalid(f"{files}: {error.message}") from error
    except Invalid as error:
        raise NotationSignerInvalid(error.message) from error
    scheme = SigningScheme.X509 if named[0] == "ca" else SigningScheme.SIGNING_AUTHORITY
    return CertifiedBy(file.rpartition("/")[2], TrustedSubject(authorities, subject, scheme, stamps))
