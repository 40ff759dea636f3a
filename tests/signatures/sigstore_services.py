"""Sigstore services of tests: a certificate authority, a log of certificates, a transparency log and a time-stamp authority.

They issue what the real ones issue, so that sigstore-python and cosign accept it under the trusted root of the same authority:
certificates with an embedded SCT (RFC 6962), entries of Rekor in both of its versions with inclusion proof, checkpoint and
promise, and time stamps of RFC 3161 by `openssl ts`.
"""

from __future__ import annotations

import json
import subprocess
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from boltseal.signatures.sigstore_bundle import BUNDLE
from tests.signatures.signers import IN_TOTO, Private

ISSUER = "https://accounts.example.com"
IDENTITY = "https://git.example.com/acme/app/.workflows/release.yml@refs/tags/v1.4.2"

_LONG = timedelta(days=3650)
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_START = "2020-01-01T00:00:00Z"


def text(raw: bytes) -> str:
    """Return base64."""
    return b64encode(raw).decode()


def pae(payload: bytes) -> bytes:
    """Return what the signature of an envelope is made over."""
    return f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def signed(key: Private, message: bytes) -> bytes:
    """Sign with the algorithm of the key's type and SHA-256."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message)


def _spki(key: Private) -> bytes:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82, *size.to_bytes(2, "big")])
    return bytes([tag]) + length + content


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "acme"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


@dataclass(frozen=True)
class CertificateAuthority:
    """A root certificate and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def named(cls, name: str) -> CertificateAuthority:
        """Return a new one."""
        key, now = new_key(), datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _LONG)
            .not_valid_after(now + _LONG)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def der(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def issue(
        self, subject: x509.Name, key: Private, valid: tuple[datetime, datetime], *, purpose: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        """Return an unsigned certificate for one purpose."""
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=purpose == ExtendedKeyUsageOID.TIME_STAMPING)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class TransparencyLog:
    """A log as Rekor has it. Two other entries stand before each entry, and one after it."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    @property
    def id(self) -> bytes:
        """The ID of the log's key."""
        return sha256(_spki(self.key)).digest()

    def trusted(self) -> dict[str, Any]:
        """Return the log's entry in a trusted root."""
        return {
            "baseUrl": f"https://{self.name}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": text(_spki(self.key)),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": _START},
            },
            "logId": {"keyId": text(self.id)},
        }

    def entry(self, body: bytes, kind: str, version: str, integrated_s: int | None) -> dict[str, Any]:
        """Record a body, and return the entry of a bundle. `integrated_s`: promise the entry at this time; None: no promise."""
        index, leaves = 2, [b"first", b"second", body, b"fourth"]
        root, path = _tree(leaves), _path(leaves, index)
        note = f"{self.name} - 1\n{len(leaves)}\n{text(root)}\n"
        line = f"\u2014 {self.name} {text(self.id[:4] + signed(self.key, note.encode()))}\n"
        found: dict[str, Any] = {
            "logIndex": str(index),
            "logId": {"keyId": text(self.id)},
            "kindVersion": {"kind": kind, "version": version},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": text(root),
                "treeSize": str(len(leaves)),
                "hashes": [text(each) for each in path],
                "checkpoint": {"envelope": f"{note}\n{line}"},
            },
            "canonicalizedBody": text(body),
        }
        if integrated_s is not None:
            promised = {
                "body": text(body),
                "integratedTime": integrated_s,
                "logID": self.id.hex(),
                "logIndex": index,
            }
            found["integratedTime"] = str(integrated_s)
            found["inclusionPromise"] = {"signedEntryTimestamp": text(signed(self.key, _canonical(promised)))}
        return found


def _canonical(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _tree(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a Merkle tree (RFC 6962, section 2.1)."""
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + _tree(leaves[:half]) + _tree(leaves[half:])).digest()


def _path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return an inclusion proof (RFC 6962, section 2.1.1)."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*_path(leaves[:half], index), _tree(leaves[half:])]
    return [*_path(leaves[half:], index - half), _tree(leaves[:half])]


@dataclass(frozen=True)
class TimeStampAuthority:
    """A time-stamp authority: `openssl ts` with a certificate of its own root. `folder`: its files."""

    folder: Path
    root: CertificateAuthority
    certificate: x509.Certificate

    @classmethod
    def at(cls, folder: Path) -> TimeStampAuthority:
        """Make one in a folder."""
        folder.mkdir()
        root, key, now = CertificateAuthority.named("time root"), new_key(), datetime.now(UTC)
        valid = (now - _LONG / 2, now + _LONG / 2)
        purpose = ExtendedKeyUsageOID.TIME_STAMPING
        certificate = root.issue(_name("time"), key, valid, purpose=purpose).sign(root.key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (folder / "time.pem").write_bytes(certificate.public_bytes(pem))
        (folder / "time.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(
            "[tsa]\ndefault_tsa = time\n[time]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\n"
            "digests = sha256\nordering = no\ntsa_name = no\ness_cert_id_chain = no\ness_cert_id_alg = sha256\n"
        )
        return cls(folder, root, certificate)

    def stamp(self, data: bytes) -> bytes:
        """Return the time stamp of some bytes, of now."""
        (self.folder / "data").write_bytes(data)
        self._openssl("-query", "-data", "data", "-sha256", "-cert", "-out", "query")
        self._openssl(
            "-reply", "-config", "openssl.cnf", "-queryfile", "query", "-signer", "time.pem", "-inkey", "time.key",
            "-out", "reply",
        )  # fmt: skip
        return (self.folder / "reply").read_bytes()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", "ts", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=60)

    def trusted(self) -> dict[str, Any]:
        """Return the authority's entry in a trusted root."""
        chain = (self.certificate.public_bytes(serialization.Encoding.DER), self.root.der)
        return _trusted_authority("time", *chain)


def _trusted_authority(name: str, *chain: bytes) -> dict[str, Any]:
    return {
        "subject": {"organization": "acme", "commonName": name},
        "uri": f"https://{name.replace(' ', '-')}.example",
        "certChain": {"certificates": [{"rawBytes": text(each)} for each in chain]},
        "validFor": {"start": _START},
    }


@dataclass(frozen=True)
class Signing:
    """How a bundle is signed, and when. Every deviation from the default is a lie, or another valid form.

    `valid_s`: the certificate is valid from and until so many seconds after now. `integrated_s`: likewise, when the log promised
    the entry; None: it promised nothing. `rekor`: the version of the log. `stamped`: with a time stamp of now.
    """

    identity: str = IDENTITY
    issuer: str = ISSUER
    issuer_v1: str | None = None
    valid_s: tuple[int, int] = (-300, 300)
    integrated_s: int | None = 0
    rekor: Literal[1, 2] = 1
    stamped: bool = False
    key: Private = field(default_factory=new_key)
    sct: bool = True


@dataclass(frozen=True)
class Authority:
    """All services. `time`: None where no time stamps are needed."""

    time: TimeStampAuthority | None = None
    certificates: CertificateAuthority = field(default_factory=lambda: CertificateAuthority.named("certificates"))
    certificate_log: TransparencyLog = field(default_factory=lambda: TransparencyLog("certificate-log.example"))
    log: TransparencyLog = field(default_factory=lambda: TransparencyLog("log.example"))

    def trusted_root(self) -> bytes:
        """Return the file by which clients verify what these services issued."""
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [self.log.trusted()],
                "certificateAuthorities": [_trusted_authority("certificates", self.certificates.der)],
                "ctlogs": [self.certificate_log.trusted()],
                "timestampAuthorities": [] if self.time is None else [self.time.trusted()],
            }
        ).encode()

    def certificate(self, how: Signing) -> x509.Certificate:
        """Issue a certificate for an identity, recorded in the log of certificates."""
        now = datetime.now(UTC)
        valid = (now + timedelta(seconds=how.valid_s[0]), now + timedelta(seconds=how.valid_s[1]))
        name: x509.GeneralName = (
            x509.UniformResourceIdentifier(how.identity) if "://" in how.identity else x509.RFC822Name(how.identity)
        )
        issuer_v1 = how.issuer if how.issuer_v1 is None else how.issuer_v1
        authority = self.certificates
        builder = (
            authority.issue(x509.Name([]), how.key, valid, purpose=ExtendedKeyUsageOID.CODE_SIGNING)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, issuer_v1.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, _der(0x0C, how.issuer.encode())), critical=False)
        )
        if not how.sct:
            return builder.sign(authority.key, hashes.SHA256())
        unlogged = builder.sign(authority.key, hashes.SHA256()).tbs_certificate_bytes
        timestamp = int(time.time() * 1000).to_bytes(8, "big")
        logged = sha256(_spki(authority.key)).digest() + len(unlogged).to_bytes(3, "big") + unlogged
        signature = signed(self.certificate_log.key, b"\0\0" + timestamp + b"\0\1" + logged + b"\0\0")
        sct = (
            b"\0"
            + self.certificate_log.id
            + timestamp
            + b"\0\0"
            + b"\4\3"
            + len(signature).to_bytes(2, "big")
            + signature
        )
        scts = len(sct).to_bytes(2, "big") + sct
        listed = _der(0x04, len(scts).to_bytes(2, "big") + scts)
        return builder.add_extension(x509.UnrecognizedExtension(_SCT_LIST, listed), critical=False).sign(
            authority.key, hashes.SHA256()
        )

    def bundle(self, payload: bytes, how: Signing | None = None) -> dict[str, Any]:
        """Sign a statement, and return the bundle as JSON has it."""
        how = how or Signing()
        certificate = self.certificate(how)
        signature = signed(how.key, pae(payload))
        material: dict[str, Any] = {
            "certificate": {"rawBytes": text(certificate.public_bytes(serialization.Encoding.DER))},
            "tlogEntries": [self._entry(payload, signature, certificate, how)],
        }
        if how.stamped:
            assert self.time is not None
            stamps = [{"signedTimestamp": text(self.time.stamp(signature))}]
            material["timestampVerificationData"] = {"rfc3161Timestamps": stamps}
        envelope = {"payload": text(payload), "payloadType": IN_TOTO, "signatures": [{"sig": text(signature)}]}
        return {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}

    def _entry(self, payload: bytes, signature: bytes, certificate: x509.Certificate, how: Signing) -> dict[str, Any]:
        integrated = None if how.integrated_s is None else int(time.time()) + how.integrated_s
        if how.rekor == 1:
            pem = certificate.public_bytes(serialization.Encoding.PEM)
            envelope = {"payload": text(payload), "payloadType": IN_TOTO, "signatures": [{"sig": text(signature)}]}
            body = _canonical(
                {
                    "apiVersion": "0.0.1",
                    "kind": "dsse",
                    "spec": {
                        "envelopeHash": {"algorithm": "sha256", "value": sha256(_canonical(envelope)).hexdigest()},
                        "payloadHash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()},
                        "signatures": [{"signature": text(signature), "verifier": text(pem)}],
                    },
                }
            )
            return self.log.entry(body, "dsse", "0.0.1", integrated)
        der = certificate.public_bytes(serialization.Encoding.DER)
        body = _canonical(
            {
                "apiVersion": "0.0.2",
                "kind": "hashedrekord",
                "spec": {
                    "hashedRekordV002": {
                        "data": {"algorithm": "SHA2_256", "digest": text(sha256(pae(payload)).digest())},
                        "signature": {
                            "content": text(signature),
                            "verifier": {
                                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                                "x509Certificate": {"rawBytes": text(der)},
                            },
                        },
                    }
                },
            }
        )
        return self.log.entry(body, "hashedrekord", "0.0.2", None)
