"""Error responses: status and code from the one table in `boltseal.errors`, the body in the spec's format.

This module also has the errors that exist only in HTTP: an unknown route, a method that is not allowed, a URL that is
too long, a client that left. The message of the error is sent, and for programs its detail (`policy.refusals`). For a defect
only the request ID is sent, under which the log has the traceback.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from boltseal.errors import (
    HTTP_ANSWERS,
    BoltsealError,
    Denied,
    ErrorCode,
    Invalid,
    NotFound,
    RangeInvalid,
    TooLarge,
    TooMany,
    Unavailable,
    http_answer,
)
from boltseal.policy.refusals import DetailDocument, RefusalDetail
from boltseal.server.registry.pulls import TagDeleted

UNAVAILABLE_RETRY_S: Final = 2
TOO_MANY_RETRY_S: Final = 30


class ClientGone(Exception):  # not a BoltsealError: the outermost layer decides what to send
    """The body ended before it was complete: the client left, or its framing is malformed. What was acknowledged is kept."""


class BodyIncomplete(Invalid):
    """The response to a body that ended before it was complete."""

    code: ClassVar[ErrorCode | None] = ErrorCode.SIZE_INVALID


class RouteUnknown(NotFound):
    """The path is no route of the API."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class NoSuchTag(NotFound):
    """A pull of a tag that could not have been pushed."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class MethodNotAllowed(Invalid):
    """The route does not support the method: 405 with `Allow`."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RegistryReadOnly(MethodNotAllowed):
    """A write to a registry whose settings allow only reads. What passes, or an operator can mend, is `Unavailable`."""


class HostRefused(Denied):
    """A registry on loopback without users was addressed by a foreign host name."""


class RangeNotSatisfiable(RangeInvalid):
    """The range is outside of the blob. `size`: of the blob, for Content-Range."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class CheckpointRefused(Invalid):
    """A checkpoint that is not proven to extend the one that this registry cosigned last, as a witness (422)."""


class UriTooLong(TooLarge):
    """The URL is too long (414)."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class BodyStalled(Unavailable):
    """The client stopped sending its body, or sends too slowly. Locks and sessions that it held are released."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


HTTP_STATUS: Final[dict[type[BoltsealError], int]] = {
    MethodNotAllowed: 405,
    RegistryReadOnly: 405,
    UriTooLong: 414,
    CheckpointRefused: 422,
}
"""Statuses of the errors that are defined here because they exist only in HTTP."""


class ErrorEntry(msgspec.Struct, frozen=True):
    """One error of a response. `detail`: None for a defect of the server, which has no reason."""

    code: ErrorCode
    message: str
    detail: DetailDocument | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The JSON of the spec's section "Error Codes". The JSON Schema of error responses is made from this type."""

    errors: tuple[ErrorEntry]


def error_schema() -> dict[str, Any]:
    """Return the JSON Schema of the body of error responses."""
    identified = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "boltseal error response"}
    return identified | msgspec.json.schema(ErrorBody)


def error_body(code: ErrorCode, message: str, detail: RefusalDetail | None) -> bytes:
    """Return the body of an error response."""
    document = None if detail is None else detail.document()
    return msgspec.json.encode(ErrorBody((ErrorEntry(code, message, document),)))


def status_of(error: type[BoltsealError]) -> int:
    """Return the status of a class of errors, including those that exist only in HTTP."""
    return next(
        HTTP_STATUS.get(cls, 0) or HTTP_ANSWERS[cls].status
        for cls in error.__mro__
        if cls in HTTP_STATUS or cls in HTTP_ANSWERS
    )


def status_and_code(error: BoltsealError) -> tuple[int, ErrorCode]:
    """Return status and code of an error."""
    return status_of(type(error)), http_answer(error).code


def error_headers(error: BoltsealError) -> tuple[tuple[bytes, bytes], ...]:
    """Return the response headers that an error requires."""
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
