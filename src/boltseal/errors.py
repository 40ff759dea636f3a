"""The kinds of errors, and what each is outside: one table to HTTP answers, one to exit codes, one to codes in JSON.

Specific classes are next to the code that raises them and derive from exactly one kind. An error message is written for
its reader, who may see it inside `docker push`: what failed, got, expected, what to do. It never contains a secret. An
exception of no kind is a defect and is reported as one (500, exit 3). The exception for commands: a file that the host
refuses (`cli.output.host_error`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, Final


class ErrorCode(StrEnum):
    """The fourteen codes of the distribution spec ("Error Codes"), and one for 503. The server sends no other code."""

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
    UNAVAILABLE = "UNAVAILABLE"
    """Of 503. The spec limits the codes of 4XX only; this one is of the reference implementation (docs/adr/0004)."""


class BoltsealError(Exception):
    """Base class of errors with a message for users. `code` overrides the code of the error's kind.

    `place`: an address for the operator, which commands print after the message and a server does not send; "" for none.
    """

    code: ClassVar[ErrorCode | None] = None
    place: str = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def refusal_facts(self) -> dict[str, object] | None:
        """Return the facts of a refusal as JSON (`policy.refusals`); None for errors without any."""
        return None


class Invalid(BoltsealError):
    """The request or input is wrong, independent of the state of the registry."""


class Unauthenticated(BoltsealError):
    """The operation requires a login, and none or an invalid one was given."""


class Denied(BoltsealError):
    """The caller is known and lacks the right."""


class NotFound(BoltsealError):
    """The object does not exist. Any other reason for a missing answer is Unavailable."""


class SealedPut(BoltsealError):
    """A push that would change what a sealed tag resolves to."""


class SealedDelete(BoltsealError):
    """A delete of something that a seal protects."""


class Precondition(BoltsealError):
    """If-Match or If-None-Match failed."""


class Mismatch(BoltsealError):
    """A ledger, a history or an image is not the one that is trusted, recorded or requested. No part of it was used."""


class TooLarge(BoltsealError):
    """A body or document is over a limit."""


class RangeInvalid(BoltsealError):
    """A byte range that can't be served, or a chunk out of order. The upload session is unchanged."""


class TooMany(BoltsealError):
    """A rate or count limit is exceeded; a retry may succeed later."""


class Unavailable(BoltsealError):
    """A condition that may pass, such as a lock timeout or a store that does not answer. Nothing was changed."""


class Full(BoltsealError):
    """No space is left. Nothing incomplete was acknowledged."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The HTTP status of a kind, and the code of classes without their own."""

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
    Mismatch: HttpAnswer(412, ErrorCode.DENIED),
    TooLarge: HttpAnswer(413, ErrorCode.SIZE_INVALID),
    RangeInvalid: HttpAnswer(416, ErrorCode.BLOB_UPLOAD_INVALID),
    TooMany: HttpAnswer(429, ErrorCode.TOOMANYREQUESTS),
    Unavailable: HttpAnswer(503, ErrorCode.UNAVAILABLE),
    Full: HttpAnswer(507, ErrorCode.BLOB_UPLOAD_INVALID),
}


class ExitCode(IntEnum):
    """Exit codes of every command, as documented in README.md."""

    HOLDS = 0
    DIFFERS = 1
    USAGE = 2
    UNKNOWN = 3
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141
    """The reader of standard output closed it; shells report the same of a program that SIGPIPE ended."""


EXIT_CODES: dict[type[BoltsealError], ExitCode] = {
    Invalid: ExitCode.USAGE,
    Unauthenticated: ExitCode.UNKNOWN,
    Denied: ExitCode.UNKNOWN,
    NotFound: ExitCode.DIFFERS,
    SealedPut: ExitCode.DIFFERS,
    SealedDelete: ExitCode.DIFFERS,
    Precondition: ExitCode.DIFFERS,
    Mismatch: ExitCode.DIFFERS,
    TooLarge: ExitCode.USAGE,
    RangeInvalid: ExitCode.USAGE,
    TooMany: ExitCode.UNKNOWN,
    Unavailable: ExitCode.UNKNOWN,
    Full: ExitCode.UNKNOWN,
}


class CommandErrorCode(StrEnum):
    """The codes of errors in the JSON of commands."""

    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    REFUSED = "REFUSED"
    CHANGED = "CHANGED"
    MISMATCH = "MISMATCH"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    DENIED = "DENIED"
    TOO_LARGE = "TOO_LARGE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    RATE_LIMITED = "RATE_LIMITED"
    UNAVAILABLE = "UNAVAILABLE"
    NO_SPACE = "NO_SPACE"
    INTERNAL = "INTERNAL"
    """A defect of boltseal: an exception of no kind."""


COMMAND_CODES: dict[type[BoltsealError], CommandErrorCode] = {
    Invalid: CommandErrorCode.INVALID,
    NotFound: CommandErrorCode.NOT_FOUND,
    SealedPut: CommandErrorCode.REFUSED,
    SealedDelete: CommandErrorCode.REFUSED,
    Precondition: CommandErrorCode.CHANGED,
    Mismatch: CommandErrorCode.MISMATCH,
    Unauthenticated: CommandErrorCode.UNAUTHENTICATED,
    Denied: CommandErrorCode.DENIED,
    TooLarge: CommandErrorCode.TOO_LARGE,
    RangeInvalid: CommandErrorCode.OUT_OF_RANGE,
    TooMany: CommandErrorCode.RATE_LIMITED,
    Unavailable: CommandErrorCode.UNAVAILABLE,
    Full: CommandErrorCode.NO_SPACE,
}


MAX_PATH: Final = 4096
"""Characters of a quoted path: paths are shown whole, since the reader has to find the file."""


_LOGIN_IN_URL: Final = re.compile(
    r"""(?x) (?<=:/)/?  # a path may have lost one of the two slashes
    (?: [^\s/"'`<>]*  # what a URL may have before its host
      | [^\s/:@]+ : (?!\d+(?:[/?#"'`]|$)) [^\s"'`<>]*  # a password with a slash that was not encoded; not a port
    ) @"""
)


def without_logins(text: str) -> str:
    """Return text with `...` in place of user names and passwords in URLs, for a message that others may read in a log."""
    return _LOGIN_IN_URL.sub(lambda found: f"{'/' if found[0].startswith('/') else ''}...@", text)


def quote(text: str, limit: int = 80) -> str:
    """Quote external text for a message: on one line, printable ASCII, at most `limit` characters of it, without logins."""
    text = without_logins(text)
    shown = text if len(text) <= limit else text[:limit] + "..."
    return '"' + "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in shown) + '"'


def operators_message(error: BoltsealError) -> str:
    """Return the message with the place of the error, or of its cause: for a terminal of the host, not for clients."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BoltsealError) and cause.place:
            return f"{error.message} [{cause.place}]"
        cause = cause.__cause__
    return error.message


def kind_of(error: BoltsealError) -> type[BoltsealError]:
    """Return the kind of an error: the class of its MRO that is in the tables."""
    return next(cls for cls in type(error).__mro__ if cls in HTTP_ANSWERS)


def http_answer(error: BoltsealError) -> HttpAnswer:
    """Return status and code of an error; its own code overrides that of its kind."""
    answer = HTTP_ANSWERS[kind_of(error)]
    return answer if error.code is None else HttpAnswer(answer.status, error.code)


def exit_code(error: BoltsealError) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    return EXIT_CODES[kind_of(error)]


def command_code(error: BoltsealError) -> CommandErrorCode:
    """Return the code in the JSON of a command that ended with this error."""
    return COMMAND_CODES[kind_of(error)]
