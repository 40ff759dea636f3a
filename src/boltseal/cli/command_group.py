"""Groups of commands: their help in sections, commands that are imported when they are called, and unknown words.

Help lists whole summaries, as wide as the terminal, and an example that can be copied. Printing it imports no command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import copy
from typing import Any, Final, TypeAlias

import typer
import typer.core
import typer.main

from boltseal.cli.command_rows import Command, Group
from boltseal.cli.command_search import unknown_command
from boltseal.cli.command_table import SECTIONS
from boltseal.cli.common_options import with_common_options
from boltseal.cli.loading import load_module
from boltseal.cli.output import print_line
from boltseal.errors import Invalid

MAX_HELP_COLUMNS: Final = 160
_WHOLE: Final = 10_000
_WORD: Final = re.compile(r'(?:--?[a-z-]+ (?!-))?(?:[^\s"]|"[^"]*")+')
"""A word of an example, or an option with the word after it, which stay on one line."""

LoadedCommand: TypeAlias = "typer.core.TyperCommand | typer.core.TyperGroup"


class _HelpOption:
    """Prints help as results are printed: a closed pipe or a full disk ends with the same message and exit code."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`, None if the command has none."""
        option = super().get_help_option(ctx)  # type: ignore[misc]  # the method of typer's class beside it
        if option is not None:
            option.callback = _show_help
        return option


class HelpCommand(_HelpOption, typer.core.TyperCommand):
    """A command whose example is printed as lines that a shell reads as one."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example below a heading."""
        _write_example(self.epilog, formatter)


class HelpGroup(_HelpOption, typer.core.TyperGroup):
    """A group that lists its commands with whole summaries, and names the right command for an unknown word."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example below a heading."""
        _write_example(self.epilog, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one line for each command; a summary that is too long is wrapped."""
        listed = [(self.label(name), command) for name, command in self.commands.items() if not command.hidden]
        if listed:
            with formatter.section("Commands"):
                formatter.write_dl([(label, command.get_short_help_str(_WHOLE)) for label, command in listed])

    def label(self, name: str) -> str:
        """Return the first column of a command in the list."""
        return name

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names. Raises: Invalid: there is none."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise Invalid(unknown_command(ctx.command_path.split()[1:], args[0], self.commands))
        return super().resolve_command(ctx, args)


class CommandOnDemand(HelpCommand):
    """A command of the table in the list of commands. Its module is imported when it is called or completed."""

    def __init__(self, command: Command) -> None:
        super().__init__(
            command.word, help=command.summary, epilog=f"Example: {command.example}", rich_markup_mode=None
        )
        self.command = command

    def loaded(self) -> LoadedCommand:
        """Import the module and return the command as typer runs it. Raises: Invalid."""
        return load_command(self.command)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments of the real command."""
        return self.loaded().make_context(info_name, args, parent, **extra)


class CommandGroup(HelpGroup):
    """Commands of the table by their words and their aliases; help lists each once."""

    def __init__(self, commands_of_table: Iterable[Command] = (), **attributes: Any) -> None:
        super().__init__(**attributes)
        self._aliases: dict[str, str] = {}
        for command in commands_of_table:
            self.add(command)

    def add(self, command: Command) -> None:
        """Add a command of the table."""
        self.add_command(CommandOnDemand(command), command.word)
        self._aliases |= dict.fromkeys(command.aliases, command.word)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a word or an alias; None if there is none."""
        return super().get_command(ctx, self._aliases.get(cmd_name, cmd_name))

    def label(self, name: str) -> str:
        """Return the word and its aliases."""
        return ", ".join([name, *(alias for alias, word in self._aliases.items() if word == name)])


class RootGroup(CommandGroup):
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

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of commands, and then the options."""
        for section in SECTIONS:
            with formatter.section(section.title):
                formatter.write_dl([self._row(entry) for entry in section.entries], col_max=_WHOLE)
        records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])

    def _row(self, entry: Command | Group) -> tuple[str, str]:
        label = self.label(entry.name).ljust(_LABEL_COLUMNS)
        if isinstance(entry, Command):
            return label, entry.summary
        return label, f"{entry.summary}: {', '.join(command.word for command in entry.commands)}."


_LABEL_COLUMNS: Final = max(
    len(", ".join([entry.name, *(entry.aliases if isinstance(entry, Command) else ())]))
    for section in SECTIONS
    for entry in section.entries
)
"""One width for all sections, so that the summaries stand below each other."""


def load_command(command: Command) -> LoadedCommand:
    """Import the module of a command and return it as typer runs it. Raises: Invalid."""
    function = command.name.replace("-", "_").replace(" ", "_")
    module = load_module(f"boltseal.cli.{function}", command=command.name, extra=command.extra)
    declared, epilog = getattr(module, function), f"Example: {command.example}"
    cli = typer.Typer(add_completion=False, rich_markup_mode=None)
    cli.callback()(_no_options)
    if command.group:
        cli.add_typer(_with_each(declared), name=command.word, epilog=epilog)
    else:
        cli.command(command.word, cls=HelpCommand, epilog=epilog)(with_common_options(declared))
    loaded: LoadedCommand = typer.main.get_group(cli).commands[command.word]  # type: ignore[assignment]  # typer types them as its private base class
    return loaded


def _with_each(group: typer.Typer) -> typer.Typer:
    """Return a copy of a group whose subcommands, and the command of its own name, have the options of all commands."""
    copied = copy(group)
    if group.registered_callback is not None and group.registered_callback.callback is not None:
        copied.registered_callback = copy(group.registered_callback)
        copied.registered_callback.callback = with_common_options(group.registered_callback.callback)
    copied.registered_commands = [copy(each) for each in group.registered_commands]
    for each in copied.registered_commands:
        if each.callback is not None:
            each.callback = with_common_options(each.callback)
    return copied


def _group(group: Group) -> CommandGroup:
    return CommandGroup(
        group.commands,
        name=group.name,
        help=group.help,
        epilog=f"Example: {group.commands[0].example}",
        no_args_is_help=True,
        rich_markup_mode=None,
    )


def _show_help(ctx: Any, _parameter: Any, wanted: bool) -> None:
    """Print the help of a command and end. Raises: Exit, Unavailable, OutputClosed."""
    if wanted and not ctx.resilient_parsing:
        print_line(ctx.get_help())
        raise typer.Exit


def _no_options() -> None:
    """Make typer build a group, also of one command."""


def _write_example(epilog: str | None, formatter: Any) -> None:
    """Write `Example: COMMAND` as a heading and the command below it, in lines that end in a backslash."""
    if not epilog:
        return
    words = _WORD.findall(epilog.removeprefix("Example: "))
    lines, line = [], ""
    for word in words:
        if line and len(line) + len(word) + 8 > formatter.width:
            lines.append(line + " \\")
            line = "   "
        line += f" {word}" if line else word
    lines.append(line)
    with formatter.section("Example"):
        for each in lines:
            formatter.write(f"{'':{formatter.current_indent}}{each}\n")
