"""Options of the commands that read a project's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]...", show_default=False, help="Files and folders of the project. Default: all of it."
    ),
]
ProjectOption = Annotated[
    Path, typer.Option("--project", metavar="FOLDER", help="The project: where boltseal.lock and .boltseal.toml are.")
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="HOST",
        show_default=False,
        help="Contact this registry if files of the project, a lock or a store name it.",
    ),
]
