"""`boltseal help`: show the help of a command, or find commands by keywords."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from boltseal.cli.command_group import CommandOnDemand
from boltseal.cli.command_search import notes, search
from boltseal.cli.output import print_line, say
from boltseal.errors import NotFound, quote

_COLUMN: Final = 40


def help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND|KEYWORD]...", show_default=False, help="A command, or words to search for."),
    ] = None,
) -> None:
    """Show the help of a command, or find commands by keywords.

    Without arguments it lists all commands. Words that are no command are searched in names, summaries and keywords.

    Exit code 1: no command was found.
    """
    root = context.find_root()
    shown = _context_of(root, words or [])
    if shown is not None:
        print_line(shown.get_help())
        return
    found = search(words or [])
    if not found:
        raise NotFound(f"no command is about {quote(' '.join(words or []))}; `boltseal --help` lists all commands")
    formatter = context.make_formatter()
    formatter.write_dl([(f"boltseal {name}", summary) for name, summary in found], col_max=_COLUMN)
    print_line(formatter.getvalue().rstrip())
    for note in dict.fromkeys(notes(words or [], [name for name, _ in found])):
        say(note)


def _context_of(root: Any, words: list[str]) -> Any:
    """Return the context of the command that the words name, None if they name none. Raises: Invalid."""
    context = root
    for word in words:
        known = hasattr(context.command, "get_command")
        command = context.command.get_command(context, word) if known else None
        if command is None or command.hidden:
            return None
        if isinstance(command, CommandOnDemand):
            command = command.loaded()
        context = command.context_class(command, info_name=command.name, parent=context, **command.context_settings)
    return context
