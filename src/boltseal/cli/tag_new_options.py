"""Options of `boltseal tag new`."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.build.tag_template import Scheme

SchemeOption = Annotated[Scheme, typer.Option("--scheme", help="What the tag is made of.")]
ImageOption = Annotated[
    str | None,
    typer.Option("--image", metavar="IMAGE", show_default=False, help="content: an image of the daemon."),
]
ApplyOption = Annotated[
    str | None,
    typer.Option(
        "--apply", metavar="IMAGE", show_default=False, help="Also tag this image of the daemon with the new tag."
    ),
]
CheckOption = Annotated[
    str | None,
    typer.Option("--check", metavar="REPOSITORY", show_default=False, help="Check that the tag is free there."),
]
PlatformOption = Annotated[
    str | None,
    typer.Option("--platform", metavar="PLATFORM", show_default=False, help="input: the platform of the build."),
]
