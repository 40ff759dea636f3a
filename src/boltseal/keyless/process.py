"""A process that verifies keyless bundles under a trusted root, and can do nothing else. `verifier` starts it.

    stdin   {"root": base64, "bundles": [base64, ...]}
    stdout  {"results": [...], "root_refused": ""}
    result  {"names": ["..."], "issuer": "...", "signed": sha256 in hex, "refused": ""}, or "refused" alone says why not

The steps of one bundle, all by sigstore-python but 1, 5 and 6:

1. The key of the certificate is on the curve P-256: its type decides the algorithm of the signature, and the bundle does not.
2. The time of the signature is known: from a time-stamp authority of the root, or from the promise of a log of the root. All such
   times are within the validity of the certificate, which an authority of the root issued for signing code, and which a log of
   certificates of the root has recorded.
3. A log of the root has recorded an entry: its inclusion proof ends at a checkpoint that the log signed, and its promise, if
   there is one, is the log's.
4. The envelope is signed with the key of the certificate, and the entry is about this envelope, signature and certificate.
5. The certificate has an issuer. Where it has it in both forms that exist, they are equal.
6. The names are the e-mail addresses and URIs of the certificate.

An error of one bundle is its refusal. An error of the process is none of these: it ends without an answer, and nothing is
known. An audit hook, which Python calls before each connection and each start of a program, ends it as well.
"""

from __future__ import annotations

import logging
import resource
import sys
from base64 import b64decode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec

from boltseal.errors import quote
from boltseal.loading import deferred

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat import asn1
    from cryptography.hazmat.primitives.asymmetric import ec
    from sigstore import errors, models
    from sigstore.verify import policy, verifier
    from sigstore_models.trustroot import v1 as trustroot
else:  # imported under the limits of memory and connections, and only where the extra is installed
    x509 = deferred("cryptography.x509")
    asn1 = deferred("cryptography.hazmat.asn1")
    ec = deferred("cryptography.hazmat.primitives.asymmetric.ec")
    errors = deferred("sigstore.errors")
    models = deferred("sigstore.models")
    policy = deferred("sigstore.verify.policy")
    verifier = deferred("sigstore.verify.verifier")
    trustroot = deferred("sigstore_models.trustroot.v1")

MEMORY_BYTES: Final = 2 * 1024**3
CPU_S: Final = 30
MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
MAX_NAMES: Final = 16
MAX_NAME: Final = 1024
MAX_WHY: Final = 200

TOO_LARGE: Final = 10

_BLOCKED: Final = (
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostby",
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn",
)  # fmt: skip

_ISSUER_V1: Final = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2: Final = "1.3.6.1.4.1.57264.1.8"


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What to verify; base64."""

    root: str
    bundles: list[str]


class Result(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a bundle proves, or why nothing (`refused`)."""

    names: tuple[str, ...] = ()
    issuer: str = ""
    signed: str = ""
    refused: str = ""


class Answer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The results in the order of the bundles; none where the trusted root can't be used (`root_refused`)."""

    results: tuple[Result, ...] = ()
    root_refused: str = ""


class Blocked(BaseException):
    """A connection or a program. Not an `Exception`, so that no library catches it and continues."""


class NotProven(ValueError):
    """A step that this module does itself failed."""


def main() -> int:
    """Answer the request on stdin; return the exit code."""
    limit()
    raw = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)
    if len(raw) > MAX_REQUEST_BYTES:
        return TOO_LARGE
    request = msgspec.json.decode(raw, type=Request)
    answer = verify(b64decode(request.root), [b64decode(each) for each in request.bundles])
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def limit() -> None:
    """Limit this process for good: memory, processor time, no files written, no connections, no programs."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    logging.disable(logging.CRITICAL)

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event.startswith(_BLOCKED):
            raise Blocked(event)

    sys.addaudithook(hook)


def verify(root: bytes, bundles: list[bytes]) -> Answer:
    """Verify bundles under a trusted root."""
    try:
        under = verifier.Verifier(trusted_root=models.TrustedRoot(trustroot.TrustedRoot.from_json(root)))
    except (errors.Error, ValueError) as error:
        return Answer(root_refused=_why(error))
    return Answer(tuple(_verified(under, raw) for raw in bundles))


def _verified(under: verifier.Verifier, raw: bytes) -> Result:
    try:
        return _verify(under, raw)
    except MemoryError:  # it says nothing about the bundle
        raise
    except Exception as error:  # noqa: BLE001 - the library raises whatever a malformed bundle causes; all of it refuses
        return Result(refused=_why(error))


def _verify(under: verifier.Verifier, raw: bytes) -> Result:
    bundle = models.Bundle.from_json(raw)
    certificate = bundle.signing_certificate
    # 1
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise NotProven("the key of the certificate is not on the curve P-256")
    # 2 to 4
    kind, payload = under.verify_dsse(bundle, policy.UnsafeNoOp())
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    # 5 and 6
    return Result(_names_of(certificate), _issuer_of(certificate), sha256(message).hexdigest())


def _issuer_of(certificate: x509.Certificate) -> str:
    found: set[str] = set()
    for oid in (_ISSUER_V1, _ISSUER_V2):
        try:
            value = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
        except x509.ExtensionNotFound:
            continue
        raw: bytes = value.public_bytes()
        found.add(asn1.decode_der(str, raw) if oid == _ISSUER_V2 else raw.decode())
    if len(found) != 1:
        raise NotProven(f"the certificate names {len(found)} issuers; expected one")
    return found.pop()


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = (
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    )
    if len(found) > MAX_NAMES or any(len(each) > MAX_NAME for each in found):
        raise NotProven(f"the certificate has more than {MAX_NAMES} names, or one of more than {MAX_NAME} characters")
    return found


def _why(error: Exception) -> str:
    """Return an error as one line, cut: a bundle decides about its text."""
    return quote(str(error) or type(error).__name__, MAX_WHY)[1:-1]


if __name__ == "__main__":
    sys.exit(main())
