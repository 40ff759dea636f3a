"""Options of the commands that read a Dockerfile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ContextArgument = Annotated[
    Path, typer.Argument(metavar="[DIR]", show_default=False, help="The build context. Default: this folder.")
]
DockerfileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", show_default=False, help="Default: Dockerfile in DIR.")
]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", show_default=False, help="As given to the build."),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="STAGE", show_default=False, help="The stage to build, if not the last."),
]
