"""Errors of other registries. Messages name the registry, and never a secret or a URL that contains one."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from boltseal.errors import (
    BoltsealError,
    Denied,
    Invalid,
    NotFound,
    SealedPut,
    TooMany,
    Unauthenticated,
    Unavailable,
    quote,
)
from boltseal.oci.jsontext import decode
from boltseal.policy.refusals import RefusalDetail

MAX_SHOWN: Final = 2000
"""Characters of a registry's error message: a refusal that lists tags has more than 300."""


class RemoteNotFound(NotFound):
    """The registry has no such object, or hides it. `bound`: the only digest that may be pushed under the deleted tag."""

    def __init__(self, message: str, bound: str | None = None) -> None:
        super().__init__(message)
        self.bound = bound


class RemoteUnauthenticated(Unauthenticated):
    """The registry requires a login, or rejects the one that was sent."""


class RemoteDenied(Denied):
    """The registry denies the request. `retry_after_s`: its Retry-After; some registries report a rate limit this way.

    `detail`: the facts of the refusal; None from a registry that is no boltseal.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, detail: RefusalDetail | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.detail = detail

    def refusal_facts(self) -> dict[str, object] | None:
        """Return the detail as JSON."""
        return None if self.detail is None else self.detail.as_json()


class RemoteRefused(SealedPut):
    """The registry refused a push: the tag is sealed there, or a precondition failed. `detail`: as in `RemoteDenied`."""

    def __init__(self, message: str, detail: RefusalDetail | None = None) -> None:
        super().__init__(message)
        self.detail = detail

    def refusal_facts(self) -> dict[str, object] | None:
        """Return the detail as JSON."""
        return None if self.detail is None else self.detail.as_json()


class RemoteBusy(TooMany):
    """A rate limit. `retry_after_s`: the registry's Retry-After, None if it sent none.

    `pulls`: only requests that count as a pull are limited, and a HEAD does not; otherwise every request is. A registry
    that sends Retry-After means every request.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, *, pulls: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.pulls = pulls


class RemoteUnavailable(Unavailable):
    """The registry sent no answer, or none that can be used."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RemoteUntrusted(RemoteUnavailable):
    """The registry's certificate is not trusted. Nothing was sent to it."""


class RemoteDigestMissing(RemoteUnavailable):
    """The registry's answer to a HEAD states no digest."""


class RemoteMismatch(Unavailable):
    """The answer does not have the expected digest, size or type. Nothing of it was used."""


_CERTIFICATE_ADVICE: Final = (
    ("mismatch", "use a name of the registry that its certificate contains, or get a certificate for this one"),
    ("has expired", "the operator of the registry must renew it"),
    ("not yet valid", "check the clocks of this machine and of the registry"),
)
"""OpenSSL's words for what is wrong with a certificate, apart from its authority, and what to do."""


def is_untrusted(error: Exception) -> bool:
    """Return whether a connection failed because the certificate of the other side is not trusted."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)  # OpenSSL's name of the reason, which all layers above keep


def advice_about_certificate(error: Exception) -> str | None:
    """Return what to do about the name or the dates of a certificate, None if its authority is not trusted."""
    return next((advice for reason, advice in _CERTIFICATE_ADVICE if reason in str(error)), None)


class _Error(msgspec.Struct):
    code: str = ""
    message: str | None = None
    detail: Any = None

    @property
    def text(self) -> str:
        """The message, or else the code, with the detail if that is a text that adds something."""
        text = self.message or self.code
        more = self.detail.strip() if isinstance(self.detail, str) else ""
        return f"{text}: {more}" if text and more and more not in text else text or more


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


def error_text(body: bytes) -> str:
    """Return the error messages of an answer's JSON body, quoted and cut; "" if there are none."""
    try:
        first = decode(body, _Errors).errors[:1]
    except msgspec.MsgspecError:
        return ""
    return "; ".join(quote(error.text, MAX_SHOWN) for error in first if error.text)


def error_detail(body: bytes) -> RefusalDetail | None:
    """Return the facts of the refusal in an answer's JSON body; None if there are none."""
    try:
        first = decode(body, _Errors).errors[:1]
    except msgspec.MsgspecError:
        return None
    return RefusalDetail.parse(first[0].detail) if first else None


def from_status(
    registry: str,
    what: str,
    status: int,
    body: bytes,
    *,
    retry_after_s: float | None,
    bound: str | None = None,
    counted: bool = False,
) -> BoltsealError:
    """Return the error for a status. `what`: what was requested, such as `manifest 1.4.2 of shop/app`.

    `counted`: the answer has a header with the number of pulls left.
    """
    reason = error_text(body)
    tail = f": {reason}" if reason else f" (HTTP {status})"
    match status:
        case 401:
            return RemoteUnauthenticated(
                f"{registry} does not show {what}{tail}; it does not exist or needs a login: `docker login {registry}`"
            )
        case 403:
            advice = "" if reason else ": the login lacks the right; ask the registry's operator for it"
            return RemoteDenied(f"{registry} denies {what}{tail}{advice}", retry_after_s, error_detail(body))
        case 404:
            return RemoteNotFound(f"{registry} has no {what}{tail}", bound)
        case 405 | 409 | 412:
            return RemoteRefused(f"{registry} refuses {what}{tail}", error_detail(body))
        case 429:
            return RemoteBusy(
                f"{registry} has a rate limit; it did not answer {what}{tail}",
                retry_after_s,
                # Docker Hub has two limits: 429 with an explanation for pulls, without one for requests. The body decides
                # only where no header says how long to wait.
                pulls=retry_after_s is None and (counted or bool(reason)),
            )
        case _ if status >= 500 or status == 408:
            return RemoteUnavailable(f"{registry} failed on {what}{tail}", retry_after_s)
        case _:
            return Invalid(f"{registry} does not accept {what}{tail}")
