"""Why a request to an object store failed, in words for the operator. Pure: it reads the text of obstore's errors.

obstore has one class, `GenericError`, for a server that is down, a wrong certificate and an answer 503. Its text names what
happened: the first line for people, then the Rust error. A text that has none of the words below is reported without a cause,
and the log has the text. Nothing here returns an address, a key or a credential.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final, NamedTuple


class FailureKind(Enum):
    """Why a request failed."""

    ABSENT = auto()
    """The store has no object under a key that must be there."""
    SHORT = auto()
    """An object ended before its size."""
    TOO_LARGE = auto()
    """A small object has more bytes than it may have."""
    NO_BUCKET = auto()
    REFUSED = auto()
    """The access key was refused."""
    NO_ANSWER = auto()
    """Anything else. A write may have taken effect or not."""


class Failure(NamedTuple):
    """What failed. `done`: the participle of what was asked, such as "written". `cause`: a clause. `advice`: what to do."""

    kind: FailureKind
    done: str
    cause: str = ""
    advice: str = ""


class ObjectSettings(NamedTuple):
    """The settings of a client, for advice: where the bucket, the server and the access key are named."""

    bucket: str
    server: str
    login: str


OF_BLOBS: Final = ObjectSettings(
    "[storage] blobs", "[storage.s3]", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of this machine"
)
OF_MARK: Final = ObjectSettings("[storage.mark] url", "[storage.mark]", "access_key_file of [storage.mark]")

NO_KEY: Final = "NoSuchKey"
"""S3's code of an error 404 about an object, and not about its bucket."""
_METADATA: Final = "169.254.169.254"
"""Where obstore asks for the role of the machine if the environment has no access key."""
_status: Final = re.compile(r"status code: (\d{3})").search
_code: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>").search
_certificate: Final = re.compile(r"InvalidCertificate\(\s*([A-Za-z]{1,40})").search
_CONNECTIONS: Final = (
    (
        ("InvalidContentType", "CorruptMessage"),
        "the S3 server speaks no TLS",
        "begin {endpoint} with http://, inside a network that you trust, or give the server a certificate",
    ),
    (("ConnectionRefused",), "the S3 server refuses connections", "start it, or correct {endpoint}"),
    (
        ("dns error",),
        "the name of the S3 server is not known",
        "correct {endpoint}, or the name servers of this machine",
    ),
    (
        ("TimedOut", "kind: Timeout"),
        "the S3 server does not answer in time",
        "check that it runs, and the network between",
    ),
    (("Unreachable",), "the S3 server can't be reached", "check the network between, or correct {endpoint}"),
    (
        ("ConnectionReset", "IncompleteMessage", "UnexpectedEof", "BrokenPipe"),
        "the S3 server closes the connection",
        "see its log; if it speaks TLS, begin {endpoint} with https://",
    ),
)
"""Words in the Rust errors of a connection, cause and advice. The first that fits counts: a time limit ends anything."""
_OTHER_REGION: Final = ("BareRedirect", "AuthorizationHeaderMalformed", "PermanentRedirect")


def failure_of(error: Exception, done: str, settings: ObjectSettings, *, denied: bool) -> Failure:
    """Return why a request failed. `denied`: obstore's class says that the access key was refused."""
    text, status = str(error), _status(str(error))
    if isinstance(error, FileNotFoundError) and NO_KEY in text:
        return Failure(FailureKind.ABSENT, done, "it is missing", "restore it")
    if isinstance(error, FileNotFoundError) or "NoSuchBucket" in text:  # a list has no class of its own for it
        advice = f"create it, or correct {settings.bucket}"
        return Failure(FailureKind.NO_BUCKET, done, "the bucket does not exist", advice)
    if _METADATA in text:
        return Failure(FailureKind.REFUSED, done, "there is no access key", f"set {settings.login}")
    if denied or (status is not None and status[1] in ("401", "403")):
        return Failure(FailureKind.REFUSED, done, *_refused(text, settings))
    return Failure(FailureKind.NO_ANSWER, done, *_no_answer(text, settings))


def _refused(text: str, settings: ObjectSettings) -> tuple[str, str]:
    if "RequestTimeTooSkewed" in text:
        return "the S3 server says that the clock of this machine is wrong", "correct the clock"
    return (
        f"the S3 server refuses the access key{_shown_code(text)}",
        f"check {settings.login}, and the rights of that key",
    )


def _no_answer(text: str, settings: ObjectSettings) -> tuple[str, str]:
    """Return cause and advice of a request without a usable answer."""
    status, certificate = _status(text), _certificate(text)
    if any(each in text for each in _OTHER_REGION):
        return "the S3 server expects another region", f"set `region` in {settings.server}"
    if status is not None:
        return f"the S3 server answers {status[1]}{_shown_code(text)}", "see its log"
    endpoint = f"`endpoint` in {settings.server}"
    if certificate is not None:
        cause = f"the certificate of the S3 server is not trusted ({certificate[1]})"
        return cause, _advice_about(certificate[1], endpoint)
    for words, cause, advice in _CONNECTIONS:
        if any(each in text for each in words):
            return cause, advice.format(endpoint=endpoint)
    return "the S3 server gave no valid answer", "see the log of boltseal, and that of the S3 server"


def _advice_about(certificate: str, endpoint: str) -> str:
    if certificate.startswith("Expired"):
        return "renew it"
    if certificate.startswith("NotValidForName"):
        return f"use a name in {endpoint} that it contains, or give the server one with this name"
    if certificate.startswith("NotValidYet"):
        return "check the clocks of both machines"
    return "install the certificate of its authority on this machine, or name it in SSL_CERT_FILE"


def _shown_code(text: str) -> str:
    """Return S3's own code of an error in brackets, such as ` (SlowDown)`; "" where the answer has none."""
    code = _code(text)
    return "" if code is None else f" ({code[1]})"
