"""The question before a command deletes something: asked on a terminal, on stderr, unless `--yes` was given."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from boltseal.cli.output import say_text
from boltseal.commands.text import clean, printable
from boltseal.errors import Invalid

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")]


def on_terminal() -> bool:
    """Whether a person can answer: standard input and standard error are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def confirmed(question: str, listed: Iterable[str], *, yes: bool, required: bool = False) -> bool:
    """Return whether to go on: `--yes` was given, or a person answered so, or there is no terminal.

    `listed`: what would be deleted, a line each. It is printed on stderr before the question, also with `-q` and `--json`:
    a person confirms only what they have seen. `required`: without a terminal only `--yes` confirms.

    Raises: Invalid: `--yes` is required.
    """
    if yes:
        return True
    if on_terminal() or required:
        for line in listed:
            say_text(clean(line))
    if on_terminal():
        return typer.confirm(printable(question), err=True)
    if required:
        raise Invalid(
            "this cannot be undone, and there is no terminal to ask on; list it with --dry-run, then pass --yes"
        )
    return True
