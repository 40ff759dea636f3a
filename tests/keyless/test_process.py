"""The process that verifies keyless bundles: what it accepts under the trusted root of our own services, and each lie.

The lies of a statement (another digest) and of a reader (another payload) are in `tests/signatures/test_keyless_bundle.py`.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from msgspec.structs import replace

from boltseal.keyless.process import Line, Result, RootResult, verify
from boltseal.oci.digest import Digest
from boltseal.signatures.signed_image import TimeSource
from tests.signatures.signers import Private, encoded, statement
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority, Signing, TimeStampAuthority, pae

PAYLOAD = encoded(statement(Digest.of(b"image")))
GOOD = Result((IDENTITY,), ISSUER, sha256(pae(PAYLOAD)).hexdigest())
AUTHORITY = Authority()


@pytest.fixture
def stamping(tmp_path: Path) -> Authority:
    """Services with a time-stamp authority."""
    return Authority(TimeStampAuthority.at(tmp_path / "time"))


def lines(root: bytes, *bundles: bytes) -> list[Line]:
    """Return what the process prints, line by line."""
    sent: list[Line] = []
    verify(root, list(bundles), sent.append)
    return sent


def timed(bundle: dict[str, Any], authority: Authority = AUTHORITY) -> Result:
    """Return the result for one bundle under the root of the services."""
    root, result = lines(authority.trusted_root(), encoded(bundle))

    assert root == RootResult("")
    assert isinstance(result, Result)
    return result


def verified(bundle: dict[str, Any], authority: Authority = AUTHORITY) -> Result:
    """Return the result without its time."""
    return replace(timed(bundle, authority), time=None, time_from=TimeSource.LOG)


def signed(how: Signing, authority: Authority = AUTHORITY) -> Result:
    return verified(authority.bundle(PAYLOAD, how), authority)


def test_a_bundle_with_a_promise_of_the_log_is_verified() -> None:
    """Names, issuer and the bytes that were signed are its result."""
    assert signed(Signing()) == GOOD


def test_a_certificate_that_was_valid_when_the_log_promised_is_enough() -> None:
    """Certificates are valid for minutes, and signatures for years."""
    assert signed(Signing(valid_s=(-9000, -8400), integrated_s=-8700)) == GOOD


@pytest.mark.parametrize("rekor", [1, 2])
def test_a_time_stamp_proves_the_time(stamping: Authority, rekor: Any) -> None:
    """The second version of Rekor promises nothing: its entries need a time stamp."""
    how = Signing(stamped=True, rekor=rekor, integrated_s=0 if rekor == 1 else None)

    assert signed(how, stamping) == GOOD


def test_the_time_is_that_of_the_log(stamping: Authority) -> None:
    """The log's promise counts, else the only time stamp; a bundle with two time stamps has no time."""
    promised = AUTHORITY.bundle(PAYLOAD, Signing(integrated_s=-100))
    stamped = stamping.bundle(PAYLOAD, Signing(rekor=2, integrated_s=None, stamped=True))
    first = timed(stamped, stamping)
    stamps = stamped["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    signature = b64decode(stamped["dsseEnvelope"]["signatures"][0]["sig"])
    assert stamping.time is not None
    stamps.append({"signedTimestamp": b64encode(stamping.time.stamp(signature)).decode()})
    log = timed(promised)

    assert (log.time, log.time_from) == (int(entry_of(promised)["integratedTime"]), TimeSource.LOG)
    assert first.time_from == TimeSource.TIME_STAMP
    assert first.time is not None
    assert abs(first.time - time.time()) < 600
    assert timed(stamped, stamping).time is None


def test_an_e_mail_address_is_an_identity() -> None:
    """People have addresses where pipelines have URIs."""
    assert signed(Signing(identity="release@acme.example")).names == ("release@acme.example",)


LATE = (-9000, -8400)
LIES = {
    "expired": (Signing(valid_s=LATE), "not valid at validation time"),
    "not valid yet": (Signing(valid_s=(600, 900)), "not valid at validation time"),
    "no time": (Signing(rekor=2, integrated_s=None), "inclusion promise or signed timestamp"),
    "not in the log of certificates": (Signing(sct=False), "signed certificate timestamp"),
    "two issuers": (Signing(issuer_v1="https://evil.example"), "names 2 issuers"),
}


@pytest.mark.parametrize(("how", "why"), LIES.values(), ids=LIES.keys())
def test_a_certificate_that_proves_nothing_is_refused(how: Signing, why: str) -> None:
    """Steps 2 and 5: each of these certificates is signed by the right authority."""
    result = signed(how)

    assert why in result.refused
    assert result == Result(refused=result.refused)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["RSA", "Ed25519", "P-384"],
)
def test_step_1_a_key_of_another_type_is_refused(key: Private) -> None:
    """One type of key has one algorithm: no bundle chooses another one."""
    assert "not on the curve P-256" in signed(Signing(key=key)).refused


def test_a_time_stamp_after_the_certificate_has_ended_is_refused(stamping: Authority) -> None:
    """A promise of the log within its validity does not help: all times that are stated have to fit."""
    how = Signing(valid_s=LATE, integrated_s=-8700, stamped=True)

    assert "not valid at validation time" in signed(how, stamping).refused


def test_a_time_stamp_of_another_signature_is_refused(stamping: Authority) -> None:
    """A time stamp is of one signature."""
    bundle, other = (stamping.bundle(PAYLOAD, Signing(rekor=2, integrated_s=None, stamped=True)) for _ in range(2))
    stamps = other["verificationMaterial"]["timestampVerificationData"]
    bundle["verificationMaterial"]["timestampVerificationData"] = stamps

    assert "not enough sources of verified time" in verified(bundle, stamping).refused


def test_a_time_stamp_of_an_authority_that_is_not_trusted_is_refused(stamping: Authority, tmp_path: Path) -> None:
    """Any client can run a time-stamp authority."""
    forged = Authority(
        TimeStampAuthority.at(tmp_path / "evil"), stamping.certificates, stamping.certificate_log, stamping.log
    )
    bundle = forged.bundle(PAYLOAD, Signing(rekor=2, integrated_s=None, stamped=True))

    assert "not enough sources of verified time" in verified(bundle, stamping).refused


def entry_of(bundle: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]
    return found


OTHER = AUTHORITY.bundle(encoded(statement(Digest.of(b"other"))))
FOREIGN = Authority(certificates=AUTHORITY.certificates, certificate_log=AUTHORITY.certificate_log).bundle(PAYLOAD)


def another_entry(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = OTHER["verificationMaterial"]["tlogEntries"]


def another_proof(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["inclusionProof"] = entry_of(OTHER)["inclusionProof"]


def another_promise(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["inclusionPromise"] = entry_of(OTHER)["inclusionPromise"]


def another_time(bundle: dict[str, Any]) -> None:
    entry = entry_of(bundle)
    entry["integratedTime"] = str(int(entry["integratedTime"]) - 1)


def another_body(bundle: dict[str, Any]) -> None:
    entry = entry_of(bundle)
    entry["canonicalizedBody"] = b64encode(b64decode(entry["canonicalizedBody"]) + b" ").decode()


def another_index(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["inclusionProof"]["logIndex"] = "0"


def another_root(bundle: dict[str, Any]) -> None:
    proof = entry_of(bundle)["inclusionProof"]
    proof["checkpoint"] = {"envelope": proof["checkpoint"]["envelope"].replace("\n4\n", "\n5\n")}


def no_checkpoint(bundle: dict[str, Any]) -> None:
    del entry_of(bundle)["inclusionProof"]["checkpoint"]


def no_promise(bundle: dict[str, Any]) -> None:
    del entry_of(bundle)["inclusionPromise"]


def another_log(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = FOREIGN["verificationMaterial"]["tlogEntries"]


def another_version(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["kindVersion"] = {"kind": "intoto", "version": "0.0.2"}


def another_signature(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] = OTHER["dsseEnvelope"]["signatures"]


def another_payload(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["payload"] = OTHER["dsseEnvelope"]["payload"]


def another_type(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["payloadType"] = "text/plain"


def another_certificate(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["certificate"] = OTHER["verificationMaterial"]["certificate"]


def cut_certificate(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["certificate"]["rawBytes"] = "AAAA"


def no_material(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"] = {}


CHANGES = [
    another_entry, another_proof, another_promise, another_time, another_body, another_index, another_root, no_checkpoint,
    no_promise, another_log, another_version, another_signature, another_payload, another_type, another_certificate,
    cut_certificate, no_material,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_bundle_that_was_changed_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """Steps 2, 3 and 4: log entry, proof, promise, envelope and certificate belong together."""
    bundle = AUTHORITY.bundle(PAYLOAD)
    before = verified(bundle)
    change(bundle)
    result = verified(bundle)

    assert before == GOOD
    assert result.refused
    assert result == Result(refused=result.refused)


def test_a_root_that_does_not_trust_the_services_refuses_all() -> None:
    """Under another root the bundle is no signature."""
    assert verified(AUTHORITY.bundle(PAYLOAD), Authority()).refused


def test_one_bad_bundle_does_not_spoil_the_others() -> None:
    """Results are in the order of the bundles."""
    good = encoded(AUTHORITY.bundle(PAYLOAD))
    _, *found = lines(AUTHORITY.trusted_root(), b"no JSON", good, b"[" * 100_000, b"{}")
    results = [replace(each, time=None) for each in found if isinstance(each, Result)]

    assert [each == GOOD for each in results] == [False, True, False, False]
    assert all(each.refused and len(each.refused) <= 210 for each in results if each != GOOD)


@pytest.mark.parametrize(
    "change", [{"tlogs": []}, {"mediaType": "x"}, {"more": 1}], ids=["no log", "type", "unknown key"]
)
def test_a_root_that_cannot_be_used_is_no_refusal_of_a_bundle(change: dict[str, Any]) -> None:
    """Nothing is known about the bundle then."""
    root = encoded(json.loads(AUTHORITY.trusted_root()) | change)
    (answer,) = lines(root, encoded(AUTHORITY.bundle(PAYLOAD)))

    assert isinstance(answer, RootResult)
    assert answer.root_refused
