"""Subjects of certificates in rules."""

from __future__ import annotations

import pytest

from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.subject_names import SubjectInvalid, SubjectName
from tests.signatures.notation_certificates import name


def test_the_specifications_example_is_read() -> None:
    """`C=US, ST=WA, L=Seattle, O=acme-rockets.io, OU=Finance, CN=SecureBuilder`."""
    subject = SubjectName.parse("C=US, ST=WA, L=Seattle, O=acme-rockets.io, OU=Finance, CN=SecureBuilder")

    assert dict(subject.attributes) == {
        "C": "US",
        "ST": "WA",
        "L": "Seattle",
        "O": "acme-rockets.io",
        "OU": "Finance",
        "CN": "SecureBuilder",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [(r"O=acme\, inc", "acme, inc"), (r"O=a\\b\;c", r"a\b;c"), ("s=WA", "WA"), (r"O=\ a\ ", " a "), ("O= a ", "a")],
)
def test_escaped_characters_belong_to_the_value(text: str, value: str) -> None:
    """A comma, semicolon, backslash, and spaces at the ends; the text form can be read again."""
    subject = SubjectName.parse(text)

    assert subject.attributes[0][1] == value
    assert value != value.strip() or SubjectName.parse(str(subject)) == subject


@pytest.mark.parametrize(
    "text", ["", "*", "O", "O=", "X=1", "O=a, O=b", "O=a;CN=b", "O=a\\", "O=a,,CN=b", ",O=a", "x509.subject: O=a"]
)
def test_a_subject_with_a_mistake_is_refused(text: str) -> None:
    """No part of it is guessed."""
    with pytest.raises(SubjectInvalid):
        SubjectName.parse(text)


def test_a_certificate_may_have_more_attributes() -> None:
    """The attributes of the rule have to be there exactly once, beside any others."""
    subject = SubjectName.parse("O=acme, C=US")
    subject.check(name("C=US, O=acme, CN=builder"))
    for other in ("O=acme", "C=US, O=acme, O=acme", "C=DE, O=acme"):
        with pytest.raises(SignatureInvalid, match="the certificate is of"):
            subject.check(name(other))
