"""The table of commands, and the outermost layer: every way to end becomes an exit code and at most one line.

Exit codes: 0 holds, 1 differs, 2 usage, 3 could not check or a defect, 130 interrupted, 141 the reader of the output closed
it. With `--json` an error of any kind, also of usage, is an object on stdout too. A traceback is shown only with `--debug`
or BOLTSEAL_DEBUG. The module of a command is imported when the command is called; see `cli.loading`.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn

import typer
from typer._completion_classes import completion_init

from boltseal import __version__
from boltseal.cli.command_group import MAX_HELP_COLUMNS, LoadedCommand, RootGroup, load_command
from boltseal.cli.command_table import commands
from boltseal.cli.common_options import QuietOption, VerboseOption, set_verbosity
from boltseal.cli.output import OutputClosed, Talk, host_error, one_run, print_envelope, print_line, say, say_text
from boltseal.commands.outcome import Outcome
from boltseal.config import completion_requested, debug_requested
from boltseal.errors import (
    BoltsealError,
    CommandErrorCode,
    ExitCode,
    command_code,
    exit_code,
    operators_message,
)

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer exports no name for it

_HELP: Final = """A container registry with immutable tags, and tools to lock, verify and deploy images.

`boltseal COMMAND --help` shows a command's options; `boltseal help KEYWORD` finds a command.
"""


@dataclass(slots=True)
class CommandContext:
    """What the root options pass to the outermost layer. `debug`: a defect shows its traceback."""

    debug: bool = False


def build() -> typer.Typer:
    """Return the command line. No module of a command is imported yet."""
    cli = typer.Typer(
        name="boltseal",
        help=_HELP,
        epilog="Example: boltseal help rollback",
        cls=RootGroup,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_HELP_COLUMNS},
    )
    cli.callback()(_options)
    return cli


def load(name: str) -> LoadedCommand:
    """Import one command of the table. Raises: KeyError, Invalid."""
    return load_command({command.name: command for command in commands()}[name])


def run(arguments: Sequence[str] | None = None, cli: typer.Typer | None = None) -> NoReturn:
    """Run one command and end the process. Defaults: the arguments of this process, and the commands of `build`."""
    context = CommandContext()
    words = sys.argv[1:] if arguments is None else arguments
    if completion_requested():
        completion_init()
    with one_run() as this:
        try:
            ended = (cli or build())(args=words, obj=context, prog_name="boltseal", standalone_mode=False)
            code = ended if isinstance(ended, int) else ExitCode.HOLDS
        except BoltsealError as error:
            message, code = operators_message(error), exit_code(error)
            _say(message)
            _print_error(this, words, command_code(error), message, code)
        except _UsageError as error:
            _show_usage_error(error)
            code = ExitCode.USAGE
            _print_error(this, words, CommandErrorCode.INVALID, error.format_message(), code)
        except (KeyboardInterrupt, typer.Abort):
            code = ExitCode.INTERRUPTED
        except OutputClosed:
            code = ExitCode.OUTPUT_CLOSED
        except Exception as error:  # noqa: BLE001 - the outermost layer: a defect ends as one line and exit 3
            code = _unexpected(error, debug=context.debug)
            _print_error(this, words, CommandErrorCode.INTERNAL, f"{type(error).__name__}: {error}", code)
        finally:
            _discard_unwritten()
    sys.exit(code)


def _show_usage_error(error: Any) -> None:
    """Print a usage error as typer does, without logins in a URL that was typed."""
    shown = io.StringIO()
    error.show(file=shown)
    say_text(shown.getvalue())


def _print_error(this: Talk, words: Sequence[str], code: str, message: str, ended: ExitCode) -> None:
    """Print an error that no command has printed as JSON, if `--json` was given."""
    given = words[: words.index("--")] if "--" in words else words
    if "--json" not in given or this.has_json:
        return
    named = [word for word in given if not word.startswith("-")]
    known = {command.name for command in commands()}
    name = next((" ".join(named[:n]) for n in (3, 2, 1) if " ".join(named[:n]) in known), "boltseal")
    outcome = Outcome.DIFFERS if ended is ExitCode.DIFFERS else Outcome.UNKNOWN
    with suppress(OutputClosed, BoltsealError):
        print_envelope(name.replace(" ", "-"), outcome, [], [{"code": code, "message": message}])


def _discard_unwritten() -> None:
    """Drop output that could not be written: Python would try again at exit, and change the exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before the start
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _options(
    context: typer.Context,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when boltseal itself fails.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj.debug = debug
    set_verbosity(quiet, verbose)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"boltseal {__version__}")
        raise typer.Exit


def _unexpected(error: Exception, *, debug: bool) -> ExitCode:
    if debug or debug_requested():
        say_text("".join(traceback.format_exception(error)))
        return ExitCode.UNKNOWN
    known = host_error(error)
    if known is not None:
        _say(known.message)
        return exit_code(known)
    kind = type(error).__name__
    _say(f"internal error: {kind}: {error}; this is a defect of boltseal: `boltseal --debug COMMAND` shows a traceback")
    return ExitCode.UNKNOWN


def _say(message: str) -> None:
    line = " ".join(message.split())
    say(f"boltseal: {''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)}")
