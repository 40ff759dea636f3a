"""Subjects of certificates, as Notation's trust policy writes a trusted identity (`x509.subject`). Pure.

    C=US, ST=WA, O=acme-rockets.io, CN=SecureBuilder

Each attribute must be in the certificate exactly once, with exactly this value; the certificate may have others. A comma,
semicolon or backslash in a value is written with a backslash before it. Source: Notary Project `trust-store-trust-policy.md`,
"Trusted Identities Constraints". Unlike there, C, ST and O are not demanded: the authority is given beside the subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boltseal.errors import Invalid, quote
from boltseal.signatures.errors import SignatureInvalid

if TYPE_CHECKING:
    from cryptography import x509

OIDS: Final = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "SERIALNUMBER": "2.5.4.5",
    "STREET": "2.5.4.9",
    "POSTALCODE": "2.5.4.17",
}
_PARTS: Final = re.compile(r"((?:[^\\,;]|\\.)+)(?:,|$)")
_ESCAPED: Final = re.compile(r"[,;\\]")
_ESCAPE: Final = r"\\\g<0>"


class SubjectInvalid(Invalid):
    """A subject that can't be read."""


@dataclass(frozen=True, slots=True)
class SubjectName:
    """Attributes that a subject must have: the short name and the value, sorted by name."""

    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> SubjectName:
        """Parse a subject. Raises: SubjectInvalid."""
        found: dict[str, str] = {}
        position = 0
        while position < len(text) or not found:
            part = _PARTS.match(text, position)
            if part is None:
                raise SubjectInvalid(
                    f"subject is {quote(text)}; expected attributes such as C=US, ST=WA, O=acme.example"
                )
            position = part.end()
            name, equals, value = part[1].lstrip(" ").partition("=")
            name = "ST" if name.upper() == "S" else name.upper()
            value = re.sub(r"\\(.)", r"\1", _without_spaces(value))
            if name not in OIDS or not equals or not value:
                raise SubjectInvalid(
                    f"subject has {quote(part[1].strip())}; expected one of {', '.join(OIDS)} with a value"
                )
            if name in found:
                raise SubjectInvalid(f"subject has {name} twice")
            found[name] = value
        return cls(tuple(sorted(found.items())))

    def check(self, subject: x509.Name) -> None:
        """Check the subject of a certificate. Raises: SignatureInvalid."""
        for name, value in self.attributes:
            values = [each.value for each in subject if each.oid.dotted_string == OIDS[name]]
            if values != [value]:
                shown = quote(subject.rfc4514_string(), 120)
                raise SignatureInvalid(f"the certificate is of {shown}; expected {name}={quote(value)}")

    def __str__(self) -> str:
        return ", ".join(f"{name}={_ESCAPED.sub(_ESCAPE, value)}" for name, value in self.attributes)


def _without_spaces(value: str) -> str:
    """Return a value without the spaces around it; a space with a backslash before it stays."""
    value = value.lstrip(" ")
    stripped = value.rstrip(" ")
    return (
        stripped + " " if stripped.endswith("\\") and not stripped.endswith("\\\\") and value != stripped else stripped
    )
