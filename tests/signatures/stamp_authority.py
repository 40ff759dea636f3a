"""A time-stamp authority of tests: true time stamps by `openssl ts`, and false ones by `openssl cms` over a TSTInfo of our own.

`openssl ts` stamps only the present, and only with a certificate for time stamps. Nothing of `boltseal` is used.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.signatures.notation_certificates import Holder

TIME_STAMPING = (ExtendedKeyUsageOID.TIME_STAMPING,)
_TST_INFO = "1.2.840.113549.1.9.16.1.4"
_POLICY = "1.2.3.4"
_HASHES = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1", "sha512": "2.16.840.1.101.3.4.2.3"}
_CONFIG = """
[tsa]
default_tsa = time
[time]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha512
ordering = no
tsa_name = no
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class StampAuthority:
    """A certificate for time stamps, and a folder for the files of openssl."""

    folder: Path
    holder: Holder

    @classmethod
    def under(cls, root: Holder, folder: Path, **how: Any) -> StampAuthority:
        """Issue the certificate of an authority; `how`: what is different about it."""
        given = {"uses": TIME_STAMPING, "uses_critical": True} | how
        holder = root.issue("C=US, O=acme, CN=time", **given)
        folder.mkdir(parents=True)
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        (folder / "time.pem").write_bytes(holder.pem)
        (folder / "time.key").write_bytes(holder.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        (folder / "above.pem").write_bytes(b"".join(each.public_bytes(pem) for each in holder.above))
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(_CONFIG)
        return cls(folder, holder)

    def stamp(self, data: bytes, hash_: str = "sha256") -> bytes:
        """Return the token for some bytes, of now."""
        (self.folder / "data").write_bytes(data)
        self._openssl("ts", "-query", "-data", "data", f"-{hash_}", "-cert", "-out", "query")
        self._openssl(
            "ts", "-reply", "-config", "openssl.cnf", "-queryfile", "query", "-signer", "time.pem", "-inkey", "time.key",
            "-chain", "above.pem", "-token_out", "-out", "token",
        )  # fmt: skip
        return (self.folder / "token").read_bytes()

    def stated(
        self, data: bytes, at: datetime, *, imprint: str = "sha256", signed_with: str = "sha256", accuracy_s: int = 0
    ) -> bytes:
        """Return a token that states any time, with any hash of the bytes (`imprint`) and of its signature."""
        return self.signed(tst_info(data, at, imprint, accuracy_s), signed_with)

    def signed(self, content: bytes, signed_with: str = "sha256", *more: str, kind: str = _TST_INFO) -> bytes:
        """Return a token with any content. `more`: options of openssl, such as a second signer."""
        (self.folder / "content").write_bytes(content)
        self._openssl(
            "cms", "-sign", "-binary", "-nodetach", "-econtent_type", kind, "-in", "content", "-md", signed_with,
            "-signer", "time.pem", "-inkey", "time.key", "-certfile", "above.pem", "-outform", "DER", "-out", "token", *more,
        )  # fmt: skip
        return (self.folder / "token").read_bytes()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=120)


def tst_info(data: bytes, at: datetime, imprint: str = "sha256", accuracy_s: int = 0) -> bytes:
    """Return a TSTInfo in DER (RFC 3161, section 2.4.2)."""
    hashed = hashlib.new(imprint, data).digest()
    parts = [
        _der(0x02, b"\x01"),
        _oid(_POLICY),
        _der(0x30, _der(0x30, _oid(_HASHES[imprint]) + b"\x05\x00") + _der(0x04, hashed)),
        _der(0x02, b"\x07"),
        _der(0x18, f"{at:%Y%m%d%H%M%SZ}".encode()),
    ]
    if accuracy_s:
        parts.append(_der(0x30, _der(0x02, accuracy_s.to_bytes(accuracy_s.bit_length() // 8 + 1))))
    return _der(0x30, b"".join(parts))


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(each) for each in dotted.split("."))
    content = bytes([40 * first + second])
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return _der(0x06, content)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82, *size.to_bytes(2, "big")])
    return bytes([tag]) + length + content


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Return certificates as a file of authorities has them."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
