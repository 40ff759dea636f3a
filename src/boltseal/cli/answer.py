"""What a verb answers: the envelope of `--json`, and tables that fit a terminal of 80 columns.

The envelope is one JSON object on stdout, also when the verb fails:

    {"schema": "boltseal.VERB/1", "outcome": "holds|differs|unknown", "results": [...], "errors": [...]}

Each error is {"code", "message"}; the code of a defect of boltseal is INTERNAL. A verb opens an `CommandOutput`, adds results
as it goes, and leaves the block; text is printed by the verb itself, `--json` by leaving.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import typer

from boltseal.commands.outcome import Outcome as Outcome
from boltseal.errors import BoltsealError, ExitCode, Full, Unavailable, exit_code, http_answer, quote

MAX_CLEAN = 2000
WIDTH = 80
"""Columns that a table may use where the terminal's width is not known."""


_EXITS = {Outcome.HOLDS: ExitCode.HOLDS, Outcome.DIFFERS: ExitCode.DIFFERS, Outcome.UNKNOWN: ExitCode.UNKNOWN}


_NO_RIGHT = "run boltseal as somebody who may use it"
_NO_ROOM = "make room there"
_BY_HOST = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: "name a file that can be there",
    errno.EIO: "see to the disk",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
}
"""Why a host may refuse a file to anybody, and what whoever runs the verb can do about it."""


class NobodyReads(Unavailable):
    """Nobody takes what is printed: a pipe that was closed, a disk that is full."""


class HostRefuses(Unavailable):
    """The host gives us no file of that name."""


class HostFull(Full):
    """The host has no room for a file."""


def of_host(error: BaseException | None) -> BoltsealError | None:
    """What is no defect of ours: the host refuses a file that it names, for a reason that the user can mend. Else None."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _BY_HOST:
        return None
    todo = _BY_HOST[error.errno]
    kind = HostFull if todo == _NO_ROOM else HostRefuses
    return kind(f"{clean(os.fsdecode(error.filename))}: {error.strerror}; {todo}")


class CommandOutput:
    """The answer of one verb. `results` are JSON objects in the order in which they were found."""

    def __init__(self, verb: str, *, as_json: bool) -> None:
        self.as_json = as_json
        self.outcome = Outcome.HOLDS
        self.results: list[Mapping[str, Any]] = []
        self._verb = verb

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._emit([])
            if self.outcome is not Outcome.HOLDS:
                raise typer.Exit(_EXITS[self.outcome])
        elif known := error if isinstance(error, BoltsealError) else of_host(error):
            self.outcome = Outcome.DIFFERS if exit_code(known) is ExitCode.DIFFERS else Outcome.UNKNOWN
            self._emit([{"code": str(http_answer(known).code), "message": known.message}])
        elif isinstance(error, Exception) and not isinstance(error, typer.Exit):
            self.outcome = Outcome.UNKNOWN
            self._emit([{"code": "INTERNAL", "message": f"{type(error).__name__}: {error}"}])

    def add(self, **fields: Any) -> None:
        """One result for `--json`. Keys `ref`, `status` and `reason` mean the same in every verb."""
        self.results.append(fields)

    def nothing_to_check(self, what: str, remedy: str) -> str:
        """Report that a check found nothing to check: the outcome is unknown, not a success; DIFFERS stays.

        `what`: what was looked through, and what it lacks. `remedy`: what to do, besides passing --allow-empty. Returns the
        whole reason.
        """
        reason = f"nothing to check: {what}; expected at least 1; {remedy}, or pass --allow-empty"
        if self.outcome is not Outcome.DIFFERS:
            self.outcome = Outcome.UNKNOWN
        self.add(ref="", status="unknown", reason=reason, weight="unknown")
        say(f"boltseal: {clean(reason)}")
        return reason

    def _emit(self, errors: Sequence[Mapping[str, str]]) -> None:
        if self.as_json:
            envelope = {
                "schema": f"boltseal.{self._verb}/1",
                "outcome": self.outcome,
                "results": self.results,
                "errors": errors,
            }
            text = json.dumps(envelope, ensure_ascii=False)
            # a file's name may be no text: its bytes are escaped, as JSON has it, or stdout would break over them
            print_line(text.encode("utf-8", "backslashreplace").decode())


def clean(text: str) -> str:
    """Words of files, hosts and registries, as a terminal may show them: on one line, and not without an end."""
    return quote(text, MAX_CLEAN)[1:-1]


def say(line: str = "") -> None:
    """Talk: one line on stderr. Where nobody takes it the answer goes on, and its code says what was found."""
    with suppress(OSError):
        typer.echo(line, err=True)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 tag`, `0 tags`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_line(line: str, end: str = "\n") -> None:
    """A result: one line on stdout. NobodyReads."""
    with _printing():
        typer.echo(line + end, nl=False)


@contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NobodyReads(f"the answer can't be printed, and is not whole: {error.strerror}") from error


def print_wrapped(first: str, text: str, *, indent: int = 0) -> None:
    """A result on stdout, in lines of 80 columns: `first`, which begins the first one, and below the text only the text.

    Words stay whole, so that a name that is longer can be copied.
    """
    import textwrap

    begin = " " * indent + first
    for line in textwrap.wrap(
        text,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_on_hyphens=False,
        break_long_words=False,
    ) or [begin.rstrip()]:
        print_line(line)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], whole: Collection[str] = ()) -> None:
    """A result: a table on stdout. Cells wrap where the terminal is too narrow; nothing is cut off.

    `whole`: the columns that are never wrapped while another one can be.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    console.width = console.width if console.is_terminal else WIDTH
    with console.capture() as printed, _printing():
        console.print(table)
    for line in printed.get().splitlines():
        print_line(line.rstrip())
