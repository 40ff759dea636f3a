"""Output of a command: the envelope of `--json`, lines, and wrapped text; tables are in `cli.table`.

The envelope is one JSON object on stdout, also when the command fails:

    {"schema": "boltseal.COMMAND/1", "outcome": "holds|differs|unknown", "results": [...], "errors": [...]}

A command that reports to a registry has `"report": {...}` as well. A run that proved tags by a trusted ledger has `"proofs": [...]` as well, one for each tag.
Each error is {"code", "message"}, and has the "detail" of a refusal (`policy.refusals`) by a boltseal registry or data
folder; the code of a defect in boltseal is INTERNAL. A command opens a `CommandOutput`, adds
results and leaves the block, which prints the envelope. Without `--json` the command prints its own text.

Registries, hosts and files choose names and texts, and a terminal obeys control characters in them. So everything that a command
prints passes through this module, which escapes them, also if the command did. Only `print_exact`, for another program, does not escape.
A line break stays, because some texts have several lines: `clean` and `cli.table` escape those of a name.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import typer

from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean, printable
from boltseal.errors import (
    BoltsealError,
    CommandErrorCode,
    ExitCode,
    Full,
    Unavailable,
    command_code,
    operators_message,
    without_logins,
)

if TYPE_CHECKING:
    from boltseal.client.tag_proofs import TagProof

ERROR: Final = "boltseal: "
"""How errors and warnings on stderr begin."""
WIDTH: Final = 80
"""Columns of output that is not on a terminal."""
_LAYOUT: Final = "\n\t"
"""Control characters that are printed as they are."""
_FOLDED: Final = "    "

_EXITS: Final = {Outcome.HOLDS: ExitCode.HOLDS, Outcome.DIFFERS: ExitCode.DIFFERS, Outcome.UNKNOWN: ExitCode.UNKNOWN}

_NO_RIGHT: Final = "run boltseal as a user with access to it"
_NO_SPACE: Final = "free space there"
_REMEDIES: Final = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "name a writable path",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EIO: "check the disk",
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
}
"""Errors of the operating system that the user can fix, and how."""


class OutputClosed(Exception):
    """The reader of standard output closed it, as `head -1` does after a line."""


@dataclass(slots=True)
class Talk:
    """What one run prints beside its results.

    `quiet`: no notices. `verbose`: a line for each request to a registry. `has_json`: the object of `--json` is printed.
    `proofs`: of the tags whose registry's ledger is trusted, for `--json`.
    `hide_progress`: removes the progress line from the terminal before anything else is printed there.
    """

    quiet: bool = False
    verbose: bool = False
    has_json: bool = False
    hide_progress: Callable[[], None] | None = None
    proofs: list[TagProof] = field(default_factory=list)


_TALK: Final[ContextVar[Talk | None]] = ContextVar("talk", default=None)


def talk() -> Talk:
    """Return the talk of this run; outside of one, a new one."""
    return _TALK.get() or Talk()


@contextmanager
def one_run() -> Iterator[Talk]:
    """Begin a run with a talk of its own."""
    own = Talk()
    token = _TALK.set(own)
    try:
        yield own
    finally:
        _TALK.reset(token)


def host_error(error: BaseException | None) -> BoltsealError | None:
    """Return an operating system error that names a file and that the user can fix as a message; else None."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _REMEDIES:
        return None
    remedy = _REMEDIES[error.errno]
    kind = Full if remedy == _NO_SPACE else Unavailable
    return kind(f"{clean(os.fsdecode(error.filename))}: {error.strerror}; {remedy}")


class CommandOutput:
    """The output of one command. `results` are JSON objects in the order in which they were added.

    `report`: how a report to a registry ended, None without one.
    """

    def __init__(self, command: str, *, as_json: bool) -> None:
        self.as_json = as_json
        self.outcome = Outcome.HOLDS
        self.results: list[Mapping[str, Any]] = []
        self.report: Mapping[str, Any] | None = None
        self._command = command
        self._errors: list[Mapping[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._emit([])
            if self.outcome is not Outcome.HOLDS:
                raise typer.Exit(_EXITS[self.outcome])
        elif known := error if isinstance(error, BoltsealError) else host_error(error):
            self.outcome = Outcome.of_error(known)
            self._emit([_error_json(known)])
        elif isinstance(error, Exception) and not isinstance(error, (typer.Exit, OutputClosed)):
            self.outcome = Outcome.UNKNOWN
            self._emit([{"code": CommandErrorCode.INTERNAL, "message": f"{type(error).__name__}: {error}"}])

    def add(self, **fields: Any) -> None:
        """Add one result for `--json`. Keys `ref`, `status` and `reason` have one meaning in every command."""
        self.results.append(fields)

    def print(self, line: str) -> None:
        """Print one line on stdout, unless `--json` was given."""
        if not self.as_json:
            print_line(line)

    def say(self, line: str) -> None:
        """Print one line on stderr, unless `--json` was given."""
        if not self.as_json:
            say(line)

    def could_not_check(self, error: BoltsealError) -> None:
        """Report an error beside the results: the outcome becomes unknown, unless it is DIFFERS already."""
        if self.outcome is not Outcome.DIFFERS:
            self.outcome = Outcome.UNKNOWN
        self._errors.append(_error_json(error))
        say(f"boltseal: {clean(operators_message(error))}")

    def nothing_to_check(self, what: str, remedy: str) -> str:
        """Report that a check found nothing to check: the outcome becomes unknown, unless it is DIFFERS already.

        `what`: what was searched, and what it lacks. `remedy`: what to do, besides passing --allow-empty. Returns the
        whole reason.
        """
        reason = f"nothing to check: {what}; expected at least 1; {remedy}, or pass --allow-empty"
        if self.outcome is not Outcome.DIFFERS:
            self.outcome = Outcome.UNKNOWN
        self.add(ref="", status="unknown", reason=reason, weight="unknown")
        say(f"boltseal: {clean(reason)}")
        return reason

    def _emit(self, errors: Sequence[Mapping[str, Any]]) -> None:
        if self.as_json:
            print_envelope(self._command, self.outcome, self.results, [*self._errors, *errors], self.report)
        else:
            talk().proofs.clear()  # nothing prints them, and a command with --every would keep those of each round


def _error_json(error: BoltsealError) -> dict[str, Any]:
    return {"code": command_code(error), "message": operators_message(error), **refusal_json(error)}


def refusal_json(error: BoltsealError) -> dict[str, Any]:
    """Return `detail`, the facts of a refusal, as a member for `--json`; nothing for errors without them."""
    facts = error.refusal_facts()
    return {} if facts is None else {"detail": facts}


def print_envelope(
    command: str,
    outcome: Outcome,
    results: Sequence[Mapping[str, Any]],
    errors: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any] | None = None,
) -> None:
    """Print the one JSON object of `--json`. Raises: Unavailable, OutputClosed."""
    shown = [{**error, "message": without_logins(error["message"])} for error in errors]
    envelope: dict[str, Any] = {
        "schema": f"boltseal.{command}/1",
        "outcome": outcome,
        "results": results,
        "errors": shown,
    }
    if report is not None:
        envelope["report"] = report
    if talk().proofs:
        envelope["proofs"] = [each.as_json() for each in talk().proofs]
        talk().proofs.clear()  # with --every the next run has its own
    text = json.dumps(envelope, ensure_ascii=False)
    talk().has_json = True
    # Escaped as JSON, before `print_line` escapes them for people; a file's name may not be valid text.
    print_line("".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text))


def say(line: str = "") -> None:
    """Print one line on stderr. A failed write is ignored: the result and the exit code do not depend on it.

    A notice is not printed with -q. A line that begins with `boltseal: ` is an error or a warning and always printed.
    """
    if not talk().quiet or line.startswith(ERROR):
        _print_on_stderr(line)


def say_text(text: str) -> None:
    """Print text of several lines on stderr, such as a usage error or a traceback, also with -q."""
    _print_on_stderr(text.removesuffix("\n"))


def trace(line: str) -> None:
    """Print one line of -v on stderr."""
    _print_on_stderr(line)


def _print_on_stderr(line: str) -> None:
    _hide_progress()
    with suppress(OSError):
        typer.echo(printable(without_logins(line), _LAYOUT), err=True)


def print_line(line: str, end: str = "\n") -> None:
    """Print one line on stdout. Raises: Unavailable, OutputClosed."""
    _hide_progress()
    with _printing():
        typer.echo(printable(line, _LAYOUT) + end, nl=False)


def print_exact(text: str) -> None:
    """Print text on stdout for another program: the exact characters, as UTF-8. Raises: Unavailable, OutputClosed."""
    _hide_progress()
    buffer = getattr(sys.stdout, "buffer", None)
    with _printing():
        if buffer is None:  # replaced by a text stream
            sys.stdout.write(text)
            return
        sys.stdout.flush()
        buffer.write(text.encode())
        buffer.flush()


def _hide_progress() -> None:
    hide = talk().hide_progress
    if hide is not None:
        hide()


@contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise Unavailable(f"the output is incomplete: writing it failed: {error.strerror}") from error


def terminal_columns() -> int:
    """Return the columns of the terminal that stdout is, or WIDTH."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def print_finding(line: str) -> None:
    """Print a finding, `FILE:LINE: ...`, on stdout: one line for a program, in the terminal's columns on a terminal."""
    if sys.stdout.isatty() and len(line) > terminal_columns():
        print_line(_folded(line, terminal_columns()))
    else:
        print_line(line)


def say_finding(line: str) -> None:
    """Print a finding on stderr, as `print_finding` does on stdout; its first line decides whether -q leaves it out."""
    if sys.stderr.isatty():
        line = _folded(line, os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH)
    say(line)


def _folded(line: str, columns: int) -> str:
    return "\n".join(
        textwrap.wrap(line, columns, subsequent_indent=_FOLDED, break_on_hyphens=False, break_long_words=False)
    )


def print_wrapped(first: str, text: str, *, indent: int = 0) -> None:
    """Print text on stdout in the terminal's columns; `first` begins the first line, and the others are indented below it.

    Words stay whole, so that a long name can be copied.
    """
    begin = " " * indent + first
    for line in textwrap.wrap(
        text,
        terminal_columns(),
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_on_hyphens=False,
        break_long_words=False,
    ) or [begin.rstrip()]:
        print_line(line)
