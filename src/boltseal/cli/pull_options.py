"""Options of `boltseal pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.durations import duration_option
from boltseal.policy.durations import Duration

RefsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[IMAGE]...", show_default=False, help="Images: localhost:5000/shop/app:latest"),
]
ComposeOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--compose", metavar="FILE", show_default=False, help="All images of a Compose file, as locked; repeatable."
    ),
]
ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="FOLDER",
        show_default=False,
        help="Where boltseal.lock and .boltseal.toml are. [the Compose file's folder]",
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option("--keep", metavar="NUMBER", min=1, show_default=False, help="Keep the newest N of each name. [all]"),
]
KeepForOption = Annotated[
    Duration | None,
    duration_option("--keep-for", "Keep what is younger, such as 30d. Default: all."),
]
ScrubOption = Annotated[
    bool, typer.Option("--scrub", help="Verify the pulled image on the disk before it gets its name.")
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="If the files of IMAGE differ on the disk, load it again beside the changed image (as root).",
    ),
]
CopyToOption = Annotated[
    str | None,
    typer.Option(
        "--copy-to",
        metavar="REPOSITORY",
        show_default=False,
        help="Copy a replaced image there first.",
    ),
]
CountPullsOption = Annotated[
    bool,
    typer.Option("--count-pulls", help="Verify by manifests on Docker Hub too, where that counts as pulls."),
]
