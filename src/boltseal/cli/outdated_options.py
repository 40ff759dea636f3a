"""Options of `boltseal outdated`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.durations import duration_option
from boltseal.policy.durations import Duration

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[IMAGE]...", show_default=False, help="Images of any registry, by tag or digest."),
]
RegistryOption = Annotated[
    str | None, typer.Option("--registry", metavar="HOST", show_default=False, help="Every tag of a registry.")
]
ComposeOption = Annotated[
    Path | None, typer.Option("--compose", metavar="FILE", show_default=False, help="The images of a Compose file.")
]
LockOption = Annotated[
    Path | None, typer.Option("--lock", metavar="FILE", show_default=False, help="The images of a boltseal.lock.")
]
RunningOption = Annotated[bool, typer.Option("--running", help="The containers of this host's engine, or of --host.")]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="IMAGE", show_default=False, help="The base of images that do not name theirs."),
]
WindowOption = Annotated[
    Duration,
    duration_option(
        "--window",
        "Do not resolve a base again that was resolved so recently, such as 15m.",
        show_default=True,
    ),
]
RebuildOption = Annotated[
    bool, typer.Option("--rebuild", help="Request rebuilds by [[on_outdated]] of your own configuration.")
]
LogOption = Annotated[bool, typer.Option("--log", help="Show the rebuilds that were requested, and their results.")]
DetailsOption = Annotated[bool, typer.Option("--details", help="Also show why an image is current.")]
DockerfileOption = Annotated[
    Path | None,
    typer.Option(
        "--dockerfile", metavar="FILE", show_default=False, help="The Dockerfile of images that do not name their base."
    ),
]
