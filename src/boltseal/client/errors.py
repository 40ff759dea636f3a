"""How other registries fail, in our kinds. Messages name the registry, never a secret or an address with one in it."""

from __future__ import annotations

from typing import Final

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

MAX_SHOWN: Final = 300


class RemoteNotFound(NotFound):
    """The registry has no such thing, or does not tell us. `bound`: the only digest that the name can come back with."""

    def __init__(self, message: str, bound: str | None = None) -> None:
        super().__init__(message)
        self.bound = bound


class RemoteUnauthenticated(Unauthenticated):
    """The registry wants a login, or another one."""


class RemoteDenied(Denied):
    """The registry knows us and says no. `retry_after_s`: when it says to come back; some mean a rate limit by it."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RemoteRefused(SealedPut):
    """The registry did not take a push: the tag is sealed there, or a condition did not hold."""


class RemoteInvalid(Invalid):
    """The registry says that what we sent can't be right."""


class RemoteBusy(TooMany):
    """The registry's rate limit. `retry_after_s`: when it says to come back, None where it does not.

    `pulls`: only what counts as a pull is limited, which a HEAD is not; otherwise it is every request. A registry that
    says when to come back means every request.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, *, pulls: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.pulls = pulls


class RemoteUnavailable(Unavailable):
    """No answer, or none that can be used."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RemoteMismatch(Unavailable):
    """What came has another digest, size or type than it must have. Nothing of it was used."""


class _Error(msgspec.Struct):
    code: str = ""
    message: str | None = None


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


def said(body: bytes) -> str:
    """What an answer's JSON says went wrong, cleaned and cut for a person; "" where it says nothing readable."""
    try:
        first = decode(body, _Errors).errors[:1]
    except msgspec.MsgspecError:
        return ""
    return "; ".join(quote(error.message or error.code, MAX_SHOWN) for error in first if error.message or error.code)


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
    """The error that an answer's status is. `what`: what was asked for, such as `manifest 1.4.2 of shop/app`.

    `counted`: the answer says how many pulls are left.
    """
    reason = said(body)
    tail = f": {reason}" if reason else f" (HTTP {status})"
    match status:
        case 401:
            return RemoteUnauthenticated(
                f"{registry} does not show {what}{tail}; it is not there, or needs a login: `docker login {registry}`"
            )
        case 403:
            return RemoteDenied(f"{registry} denies {what}{tail}", retry_after_s)
        case 404:
            return RemoteNotFound(f"{registry} has no {what}{tail}", bound)
        case 405 | 409 | 412:
            return RemoteRefused(f"{registry} refuses {what}{tail}")
        case 429:
            return RemoteBusy(
                f"{registry} limits how often it may be asked; {what} was not answered{tail}",
                retry_after_s,
                # Docker Hub has two limits: the one of pulls explains itself, the one of requests is a bare 429. The body
                # is only asked where no header says how long to wait.
                pulls=retry_after_s is None and (counted or bool(reason)),
            )
        case _ if status >= 500 or status == 408:
            return RemoteUnavailable(f"{registry} failed on {what}{tail}", retry_after_s)
        case _:
            return RemoteInvalid(f"{registry} does not accept {what}{tail}")
