"""Options of `boltseal build`."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.build.builders import Builder
from boltseal.build.tag_template import Scheme

MoreArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- ARGUMENT...]", show_default=False, help="Further arguments for the builder."),
]
RepositoryOption = Annotated[
    str, typer.Option("--repository", "-r", metavar="REPOSITORY", help="Push the image there.", show_default=False)
]
SchemeOption = Annotated[
    Scheme, typer.Option("--scheme", help="What its tag is made of; content is not known before the build.")
]
TagOption = Annotated[str | None, typer.Option("--tag", metavar="TAG", show_default=False, help="This tag instead.")]
BuilderOption = Annotated[
    Builder | None,
    typer.Option("--builder", show_default=False, help="Default: buildx, else one that is installed."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Build even if an image of the same inputs is there.")]
OnlyLabelsOption = Annotated[
    bool, typer.Option("--print-labels", help="Build nothing: print the labels as flags of docker build.")
]
VersionOption = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="TEXT",
        show_default=False,
        help="With --print-labels: default: the output of git describe.",
    ),
]
AnnotationsOption = Annotated[
    bool,
    typer.Option("--annotations", help="With --print-labels: also as --annotation, which only buildx supports."),
]
PlatformOption = Annotated[
    str | None,
    typer.Option("--platform", metavar="PLATFORM,...", show_default=False, help="The platforms to build for."),
]
