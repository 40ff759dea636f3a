"""`boltseal completion`: print or install the completion script of a shell."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer
from typer._completion_shared import get_completion_script
from typer._completion_shared import install as install_script

from boltseal.cli.output import print_line, say

_PROGRAM: Final = "boltseal"
_VARIABLE: Final = "_BOLTSEAL_COMPLETE"


class Shell(StrEnum):
    """A shell that typer writes a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", show_default=False, help="The shell.")],
    install: Annotated[
        bool, typer.Option("--install", help="Write the script where your shell loads it at its start.")
    ] = False,
) -> None:
    """Print the completion script of a shell, or install it for yourself."""
    if not install:
        print_line(get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell))
        return
    _, path = install_script(shell=shell, prog_name=_PROGRAM, complete_var=_VARIABLE)
    say(f"the completion for {shell} is in {path}; it works in every shell that starts from now on")
