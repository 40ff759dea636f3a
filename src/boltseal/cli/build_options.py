"""Options of the commands that read a Dockerfile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ContextArgument = Annotated[
    Path, typer.Argument(metavar="[FOLDER]", show_default=False, help="The build context. Default: this folder.")
]
DockerfileOption = Annotated[
    Path | None, typer.Option("--dockerfile", metavar="FILE", show_default=False, help="Default: Dockerfile in FOLDER.")
]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", show_default=False, help="As given to the build."),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", show_default=False, help="The stage to build, if not the last."),
]
RevisionOfOption = Annotated[
    str | None,
    typer.Option("--of", metavar="TAG", show_default=False, help="revision: the sealed tag that is built again."),
]
SeparatorOption = Annotated[
    str,
    typer.Option("--separator", metavar="TEXT", help="revision: between that tag and the number: . or -r or - or _"),
]
