"""A process that verifies keyless bundles or time stamps under a trusted root, and can do nothing else. `verifier` starts it.

    stdin   {"type": "bundles", "root": base64, "bundles": [base64, ...]}, or
            {"type": "stamps", "authorities": [base64, ...], "stamps": [{"token": base64, "signature": base64}, ...]}
    stdout  a line about the root, {"root_refused": ""}, then a line for each bundle or time stamp as soon as its result is known:
            {"names": ["..."], "issuer": "...", "signed": sha256 in hex, "time": seconds, "time_from": "log", "refused": ""}, or
            {"at_us": ..., "accuracy_us": ..., "certificates": [base64, ...], "refused": ""}; "refused" says why not

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

An error of one bundle is its refusal. An error of the process is none of these: it ends without a result for that bundle and those
after it. The time of the processor is limited for each bundle. An audit hook, which Python calls before each connection and each
start of a program, ends the process as well.
"""

from __future__ import annotations

import logging
import resource
import signal
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from boltseal.errors import quote
from boltseal.keyless import stamps
from boltseal.loading import deferred
from boltseal.signatures.signed_image import TimeSource

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
CPU_S: Final = 60
BUNDLE_CPU_S: Final = 5.0
"""A bundle takes about a hundredth of that."""
MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
MAX_NAMES: Final = 16
MAX_NAME: Final = 1024
MAX_WHY: Final = 200

TOO_LARGE: Final = 10

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_BLOCKED: Final = (
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostby",
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn",
)  # fmt: skip

_ISSUER_V1: Final = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2: Final = "1.3.6.1.4.1.57264.1.8"


class Stamp(msgspec.Struct, forbid_unknown_fields=True):
    """A time stamp and the signature that it is of; base64."""

    token: str
    signature: str


class BundleRequest(msgspec.Struct, forbid_unknown_fields=True, tag="bundles"):
    """Bundles to verify; base64."""

    root: str
    bundles: list[str]


class StampRequest(msgspec.Struct, forbid_unknown_fields=True, tag="stamps"):
    """Time stamps to verify under certificates of authorities, which are in DER; base64."""

    authorities: list[str]
    stamps: list[Stamp]


class RootResult(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Whether the trusted root can be used; why not, if it can't."""

    root_refused: str


class Result(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a bundle proves, or why nothing (`refused`). `time`: seconds since 1970; None if it is not known."""

    names: tuple[str, ...] = ()
    issuer: str = ""
    signed: str = ""
    time: int | None = None
    time_from: TimeSource = TimeSource.LOG
    refused: str = ""


Line = RootResult | Result | stamps.StampResult
_R = TypeVar("_R", Result, stamps.StampResult)


class _Entry(msgspec.Struct, rename="camel"):
    integrated_time: str | int = 0
    inclusion_promise: dict[str, Any] | None = None


class _Material(msgspec.Struct, rename="camel"):
    tlog_entries: list[_Entry]


class _Bundle(msgspec.Struct, rename="camel"):
    verification_material: _Material


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
    request = msgspec.json.decode(raw, type=BundleRequest | StampRequest)
    if isinstance(request, BundleRequest):
        verify(b64decode(request.root), [b64decode(each) for each in request.bundles], _send)
    else:
        stamps = [(b64decode(each.token), b64decode(each.signature)) for each in request.stamps]
        verify_stamps([b64decode(each) for each in request.authorities], stamps, _send)
    return 0


def _send(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def limit() -> None:
    """Limit this process for good: memory, processor time, no files written, no connections, no programs."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event.startswith(_BLOCKED):
            raise Blocked(event)

    sys.addaudithook(hook)


def verify(root: bytes, bundles: list[bytes], send: Callable[[Line], None]) -> None:
    """Verify bundles under a trusted root, and send each result; none where the root can't be used."""
    try:
        under = verifier.Verifier(trusted_root=models.TrustedRoot(trustroot.TrustedRoot.from_json(root)))
    except (errors.Error, ValueError) as error:
        send(RootResult(_why(error)))
        return
    send(RootResult(""))
    for raw in bundles:
        send(_limited(partial(_verify, under, raw), Result))


def verify_stamps(
    authorities: list[bytes], time_stamps: list[tuple[bytes, bytes]], send: Callable[[Line], None]
) -> None:
    """Verify pairs of a token and the signature that it is of, and send each result."""
    roots = [x509.load_der_x509_certificate(each) for each in authorities]
    send(RootResult(""))
    for token, signature in time_stamps:
        send(_limited(partial(_verify_stamp, roots, token, signature), stamps.StampResult))


def _limited(verification: Callable[[], _R], refusal: type[_R]) -> _R:
    """Verify one bundle or time stamp within its time of the processor."""
    signal.setitimer(signal.ITIMER_PROF, BUNDLE_CPU_S)  # its signal ends the process, also inside a function in C
    try:
        return verification()
    except MemoryError:  # it says nothing about the bundle
        raise
    except Exception as error:  # noqa: BLE001 - the library raises whatever a malformed bundle causes; all of it refuses
        return refusal(refused=_why(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _verify_stamp(roots: list[x509.Certificate], token: bytes, signature: bytes) -> stamps.StampResult:
    response, certificates = stamps.verified_token(roots, token, signature)
    return stamps.StampResult(
        (response.tst_info.gen_time - _EPOCH) // _MICROSECOND,
        stamps.accuracy_of(response) // _MICROSECOND,
        tuple(b64encode(each).decode() for each in certificates),
    )


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
    names, issuer = _names_of(certificate), _issuer_of(certificate)
    return Result(names, issuer, sha256(message).hexdigest(), *_time_of(bundle, raw))


def _time_of(bundle: models.Bundle, raw: bytes) -> tuple[int | None, TimeSource]:
    """Return the time of a verified bundle: that which the log promised, or of its time stamp if it has only one."""
    (entry,) = msgspec.json.decode(raw, type=_Bundle).verification_material.tlog_entries
    if entry.inclusion_promise is not None and (promised := int(entry.integrated_time)):
        return promised, TimeSource.LOG
    stamped = bundle.verification_material.timestamp_verification_data
    found = [] if stamped is None else stamped.rfc3161_timestamps
    return (int(found[0].tst_info.gen_time.timestamp()) if len(found) == 1 else None), TimeSource.TIME_STAMP


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
