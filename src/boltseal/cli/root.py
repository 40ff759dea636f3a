"""The table of commands, and the outermost layer: every way to end becomes an exit code and at most one line.

Exit codes: 0 holds, 1 differs, 2 usage, 3 could not check or a defect, 130 interrupted, 141 the reader of the output closed
it. With `--json` an error of any kind, also of usage, is an object on stdout too. A traceback is shown only with `--debug`
or BOLTSEAL_DEBUG. The module of a command is imported when the command is called; see `cli.loading`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeAlias

import typer
import typer.core
import typer.main

from boltseal import __version__
from boltseal.cli.command_table import SECTIONS, Command, Group, commands
from boltseal.cli.common_options import QuietOption, VerboseOption, set_verbosity, with_common_options
from boltseal.cli.loading import load_module
from boltseal.cli.output import OutputClosed, Talk, host_error, one_run, print_envelope, print_line, say
from boltseal.cli.parameters import CommandFunction
from boltseal.commands.outcome import Outcome
from boltseal.config import debug_requested
from boltseal.errors import BoltsealError, ErrorCode, ExitCode, exit_code, http_answer

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer exports no name for it

LoadedCommand: TypeAlias = "typer.core.TyperCommand | typer.core.TyperGroup"


@dataclass(slots=True)
class CommandContext:
    """What the root options pass to the outermost layer. `debug`: a defect shows its traceback."""

    debug: bool = False


class CommandOnDemand(typer.core.TyperCommand):
    """A command of the table in the list of commands. Its module is imported when it is called or completed."""

    def __init__(self, command: Command) -> None:
        super().__init__(
            command.word, help=command.summary, epilog=f"Example: {command.example}", rich_markup_mode=None
        )
        self.command = command

    def loaded(self) -> LoadedCommand:
        """Import the module and return the command as typer runs it. Raises: ExtraMissing."""
        return _load(self.command)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments of the real command."""
        return self.loaded().make_context(info_name, args, parent, **extra)


class CommandGroup(typer.core.TyperGroup):
    """Commands by their words and their aliases; help lists each once."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.aliases: dict[str, str] = {}

    def add(self, command: Command) -> None:
        """Add a command of the table."""
        self.add_command(CommandOnDemand(command), command.word)
        self.aliases |= dict.fromkeys(command.aliases, command.word)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a word or an alias; None if there is none."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


class _RootGroup(CommandGroup):
    """All commands of the table, and those that were added to the typer."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        added = dict(self.commands)
        self.commands.clear()
        for section in SECTIONS:
            for entry in section.entries:
                if isinstance(entry, Group):
                    self.add_command(_group(entry), entry.name)
                else:
                    self.add(entry)
        self.commands.update(added)


def _group(group: Group) -> CommandGroup:
    listed = CommandGroup(
        name=group.name,
        help=group.help,
        short_help=group.summary,
        epilog=f"Example: {group.commands[0].example}",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in group.commands:
        listed.add(command)
    return listed


def _load(command: Command) -> LoadedCommand:
    """Import the module of a command and return it as typer runs it. Raises: ExtraMissing."""
    function = command.name.replace("-", "_").replace(" ", "_")
    module = load_module(f"boltseal.cli.{function}", command=command.name, extra=command.extra)
    declared, epilog = getattr(module, function), f"Example: {command.example}"
    cli = typer.Typer(add_completion=False, rich_markup_mode=None)
    cli.callback()(_no_options)
    if command.group:
        cli.add_typer(_with_each(declared, with_common_options), name=command.word, epilog=epilog)
    else:
        cli.command(command.word, epilog=epilog)(with_common_options(declared))
    loaded: LoadedCommand = typer.main.get_group(cli).commands[command.word]  # type: ignore[assignment]  # typer types them as its private base class
    return loaded


def _with_each(group: typer.Typer, add: Callable[[CommandFunction], CommandFunction]) -> typer.Typer:
    """Return a copy of a group whose subcommands have further options."""
    copied = copy(group)
    copied.registered_commands = [copy(each) for each in group.registered_commands]
    for each in copied.registered_commands:
        if each.callback is not None:
            each.callback = add(each.callback)
    return copied


def build() -> typer.Typer:
    """Return the command line. No module of a command is imported yet."""
    cli = typer.Typer(
        name="boltseal",
        help="A container registry with immutable tags, and tools to lock, verify and deploy images.",
        epilog="Example: boltseal serve --help",
        cls=_RootGroup,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(_options)
    return cli


def load(name: str) -> LoadedCommand:
    """Import one command of the table. Raises: KeyError, ExtraMissing."""
    return _load({command.name: command for command in commands()}[name])


def run(arguments: Sequence[str] | None = None, cli: typer.Typer | None = None) -> NoReturn:
    """Run one command and end the process. Defaults: the arguments of this process, and the commands of `build`."""
    context = CommandContext()
    words = sys.argv[1:] if arguments is None else arguments
    with one_run() as this:
        try:
            code = (cli or build())(
                args=words, obj=context, prog_name="boltseal", standalone_mode=False
            ) or ExitCode.HOLDS
        except BoltsealError as error:
            _say(error.message)
            code = exit_code(error)
            _print_error(this, words, str(http_answer(error).code), error.message, code)
        except _UsageError as error:
            error.show()
            code = ExitCode.USAGE
            _print_error(this, words, ErrorCode.UNSUPPORTED, error.format_message(), code)
        except (KeyboardInterrupt, typer.Abort):
            code = ExitCode.INTERRUPTED
        except OutputClosed:
            code = ExitCode.OUTPUT_CLOSED
        except Exception as error:  # noqa: BLE001 - the outermost layer: a defect ends as one line and exit 3
            code = _unexpected(error, debug=context.debug)
            _print_error(this, words, "INTERNAL", f"{type(error).__name__}: {error}", code)
        finally:
            _discard_unwritten()
    sys.exit(code)


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


def _no_options() -> None:
    """Make typer build a group, also of one command."""


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"boltseal {__version__}")
        raise typer.Exit


def _unexpected(error: Exception, *, debug: bool) -> ExitCode:
    if debug or debug_requested():
        sys.stderr.write("".join(traceback.format_exception(error)))
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
