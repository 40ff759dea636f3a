"""The option of the commands that show the state of a registry to its operators."""

from __future__ import annotations

from typing import Annotated

import typer

OperatorServerOption = Annotated[
    str,
    typer.Option("--server", metavar="HOST", show_default=False, help="The registry; it needs an operator's login."),
]
