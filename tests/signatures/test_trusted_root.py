"""Trusted roots: what is read, and each file that is none."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from boltseal.signatures.trusted_root import MAX_TRUSTED_ROOT_BYTES, TrustedRoot, TrustedRootInvalid
from tests.signatures.signers import encoded
from tests.signatures.sigstore_services import Authority

RAW = Authority().trusted_root()
ROOT: dict[str, Any] = json.loads(RAW)
AUTHORITY, LOG = ROOT["certificateAuthorities"][0], ROOT["tlogs"][0]


def test_a_trusted_root_is_its_bytes() -> None:
    """Equal files are equal roots, and the fingerprint is the file's."""
    assert TrustedRoot.parse(RAW) == TrustedRoot.parse(bytes(RAW))
    assert TrustedRoot.parse(RAW).fingerprint == sha256(RAW).hexdigest()
    assert TrustedRoot.parse(RAW) != TrustedRoot.parse(RAW + b"\n")


def test_time_stamp_authorities_are_not_needed() -> None:
    """A root whose log promises entries needs no other source of time."""
    document = {name: value for name, value in ROOT.items() if name != "timestampAuthorities"}

    assert TrustedRoot.parse(encoded(document)).raw == encoded(document)


def chain(*certificates: str) -> list[dict[str, Any]]:
    return [AUTHORITY | {"certChain": {"certificates": [{"rawBytes": each} for each in certificates]}}]


MISTAKES = {
    "too large": (RAW + b" " * MAX_TRUSTED_ROOT_BYTES, "bytes; at most"),
    "not JSON": (b"-----BEGIN CERTIFICATE-----", "is not JSON"),
    "another document": (b"{}", "is not valid"),
    "another type": (encoded(ROOT | {"mediaType": "text/plain"}), 'is of type "text/plain"'),
    "no authority": (encoded(ROOT | {"certificateAuthorities": []}), "no certificateAuthorities"),
    "no log": (encoded(ROOT | {"tlogs": []}), "no tlogs"),
    "no log of certificates": (encoded(ROOT | {"ctlogs": []}), "no ctlogs"),
    "an authority without certificate": (encoded(ROOT | {"certificateAuthorities": chain()}), "has no certificate"),
    "no certificate": (encoded(ROOT | {"certificateAuthorities": chain("AAAA")}), "a certificate of the"),
    "no base64": (encoded(ROOT | {"certificateAuthorities": chain("?")}), "a certificate of the"),
    "a time-stamp authority": (encoded(ROOT | {"timestampAuthorities": chain("AAAA")}), "a certificate of the"),
    "no key": (encoded(ROOT | {"tlogs": [LOG | {"publicKey": {"rawBytes": "AAAA"}}]}), "the key of a log"),
    "no base64 key": (encoded(ROOT | {"tlogs": [LOG | {"publicKey": {"rawBytes": "?"}}]}), "the key of a log"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "why"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_file_that_is_no_trusted_root_is_refused(raw: bytes, why: str) -> None:
    """A wrong file is found at the start, and not at the first push."""
    with pytest.raises(TrustedRootInvalid, match=why):
        TrustedRoot.parse(raw)
