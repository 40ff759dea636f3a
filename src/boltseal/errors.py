"""The few kinds of error, and what each means outside: one table to HTTP, one table to exit codes.

Specific classes live next to the code that raises them and subclass exactly one kind. The message of an
error is written for the person who reads it inside `docker push`: what, got, expected, what to do next.
It never holds a secret. What is not one of these kinds is a defect and is answered as one (500, exit 3); of a verb, but
for a file that the host refuses (`cli.answer.of_host`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """The fourteen codes of the distribution spec ("Error Codes"); no other code ever leaves the server."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    UNAUTHORIZED = "UNAUTHORIZED"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"


class BoltsealError(Exception):
    """Base of every error that is meant for a person. `code` overrides the code of its kind."""

    code: ClassVar[ErrorCode | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(BoltsealError):
    """What was sent can't be right, whatever the state of the registry."""


class Unauthenticated(BoltsealError):
    """Nobody, or nobody provable, asked for something that needs a person."""


class Denied(BoltsealError):
    """The person is known and has not got the right."""


class NotFound(BoltsealError):
    """The only miss. Anything else that keeps us from answering is Unavailable."""


class SealedPut(BoltsealError):
    """A push that would make a sealed or bound name mean something else."""


class SealedDelete(BoltsealError):
    """A delete of something that a seal protects."""


class Precondition(BoltsealError):
    """If-Match or If-None-Match did not hold."""


class TooLarge(BoltsealError):
    """A body or document over a stated limit."""


class RangeInvalid(BoltsealError):
    """A byte range that can't be served, or a chunk out of order. The upload session is unchanged."""


class TooMany(BoltsealError):
    """More than a stated rate or count; worth another try later."""


class Unavailable(BoltsealError):
    """Doubt that may pass: a lock wait, a store that does not answer. Nothing has changed."""


class Full(BoltsealError):
    """No space left. Nothing was acknowledged that is not whole."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """How a kind leaves the server: status, and the code used where the class names none."""

    status: int
    code: ErrorCode


HTTP_ANSWERS: dict[type[BoltsealError], HttpAnswer] = {
    Invalid: HttpAnswer(400, ErrorCode.UNSUPPORTED),
    Unauthenticated: HttpAnswer(401, ErrorCode.UNAUTHORIZED),
    Denied: HttpAnswer(403, ErrorCode.DENIED),
    NotFound: HttpAnswer(404, ErrorCode.NAME_UNKNOWN),
    SealedPut: HttpAnswer(409, ErrorCode.DENIED),
    SealedDelete: HttpAnswer(405, ErrorCode.DENIED),
    Precondition: HttpAnswer(412, ErrorCode.DENIED),
    TooLarge: HttpAnswer(413, ErrorCode.SIZE_INVALID),
    RangeInvalid: HttpAnswer(416, ErrorCode.BLOB_UPLOAD_INVALID),
    TooMany: HttpAnswer(429, ErrorCode.TOOMANYREQUESTS),
    Unavailable: HttpAnswer(503, ErrorCode.TOOMANYREQUESTS),
    Full: HttpAnswer(507, ErrorCode.BLOB_UPLOAD_INVALID),
}


class ExitCode(IntEnum):
    """Exit codes of every verb; README.md tells users what they mean."""

    HOLDS = 0
    DIFFERS = 1
    USAGE = 2
    UNKNOWN = 3
    INTERRUPTED = 130


EXIT_CODES: dict[type[BoltsealError], ExitCode] = {
    Invalid: ExitCode.USAGE,
    Unauthenticated: ExitCode.UNKNOWN,
    Denied: ExitCode.UNKNOWN,
    NotFound: ExitCode.DIFFERS,
    SealedPut: ExitCode.DIFFERS,
    SealedDelete: ExitCode.DIFFERS,
    Precondition: ExitCode.DIFFERS,
    TooLarge: ExitCode.USAGE,
    RangeInvalid: ExitCode.USAGE,
    TooMany: ExitCode.UNKNOWN,
    Unavailable: ExitCode.UNKNOWN,
    Full: ExitCode.UNKNOWN,
}


def quote(text: str, limit: int = 80) -> str:
    """Text from outside as a message may show it: in quotes, on one line, printable ASCII, at most `limit` characters of it."""
    shown = text if len(text) <= limit else text[:limit] + "..."
    return '"' + "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in shown) + '"'


def kind_of(error: BoltsealError) -> type[BoltsealError]:
    """The kind that an error belongs to: the class of its ancestry that stands in the tables."""
    return next(cls for cls in type(error).__mro__ if cls in HTTP_ANSWERS)


def http_answer(error: BoltsealError) -> HttpAnswer:
    """Status and code of an error, its own code winning over its kind's."""
    answer = HTTP_ANSWERS[kind_of(error)]
    return answer if error.code is None else HttpAnswer(answer.status, error.code)


def exit_code(error: BoltsealError) -> ExitCode:
    """The exit code of a verb that ended with this error."""
    return EXIT_CODES[kind_of(error)]
