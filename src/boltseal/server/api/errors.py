"""How an error leaves the server: status and code from the one table in `boltseal.errors`, the body as the spec has it.

Here are also the errors that only HTTP knows: a route that does not exist, a method it does not take, a URL too
long, a client that left. The sentence for the person is the error's own message; a defect says nothing but the
number under which the log has its traceback.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from boltseal.errors import (
    BoltsealError,
    ErrorCode,
    Invalid,
    NotFound,
    RangeInvalid,
    TooLarge,
    TooMany,
    Unavailable,
    http_answer,
)
from boltseal.server.registry.pulls import TagDeleted

UNAVAILABLE_RETRY_S: Final = 2
TOO_MANY_RETRY_S: Final = 30


class ClientGone(Exception):  # not a BoltsealError: there is nobody left to tell
    """The client went away before its request was whole. What was acknowledged stays, nothing is answered."""


class RouteUnknown(NotFound):
    """A path that is no route of the distribution API."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class NoSuchTag(NotFound):
    """A pull of a tag that no push could have given."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class MethodNotAllowed(Invalid):
    """A route that exists, and a method it does not take: 405 with `Allow`."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RangeNotSatisfiable(RangeInvalid):
    """A range of a blob that does not lie in it. `size` is the blob's, for the answer's Content-Range."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class UriTooLong(TooLarge):
    """More in the URL than is read (414)."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class BodyStalled(Unavailable):
    """The client is there and sends nothing. Whatever it held on to is free for its next try."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


STATUS_OF_HTTP_ALONE: Final[dict[type[BoltsealError], int]] = {MethodNotAllowed: 405, UriTooLong: 414}
"""Statuses that only exist in HTTP, for errors that only exist here."""


class _Entry(msgspec.Struct):
    code: str
    message: str
    detail: None = None


class _Body(msgspec.Struct):
    errors: list[_Entry]


def error_body(code: ErrorCode, message: str) -> bytes:
    """The JSON of the spec's section "Error Codes", with one error."""
    return msgspec.json.encode(_Body([_Entry(code.value, message)]))


def answer_of(error: BoltsealError) -> tuple[int, ErrorCode]:
    """Status and code of an error, those that only HTTP knows included."""
    answer = http_answer(error)
    return STATUS_OF_HTTP_ALONE.get(type(error), answer.status), answer.code


def headers_of(error: BoltsealError) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that an error brings along."""
    match error:
        case MethodNotAllowed():
            return ((b"allow", error.allow.encode("ascii")),)
        case TagDeleted():
            return ((b"boltseal-bound", error.bound.encode("ascii")),)
        case RangeNotSatisfiable():
            return ((b"content-range", b"bytes */%d" % error.size),)
        case Unavailable():
            return ((b"retry-after", b"%d" % UNAVAILABLE_RETRY_S),)
        case TooMany():
            return ((b"retry-after", b"%d" % TOO_MANY_RETRY_S),)
        case _:
            return ()
