"""Options of the commands on a Compose project and its releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.durations import duration_option
from boltseal.policy.durations import Duration

ServicesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVICE]...", show_default=False, help="Services of the project. Default: all of them."),
]
FileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--file", "-f", metavar="FILE", show_default=False, help="A Compose file. Default: as Compose finds it."
    ),
]
ManifestOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        show_default=False,
        help="A Compose file. Default: as Compose finds it. With --kube: a manifest, a folder, or - for standard input.",
    ),
]
KubeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--kube", metavar="NAME", show_default=False, help="A cluster, by kubectl and this context; may be repeated."
    ),
]
OneKubeOption = Annotated[
    str | None,
    typer.Option("--kube", metavar="NAME", show_default=False, help="A cluster, by kubectl and this context."),
]
KubeNamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace", metavar="NAME", show_default=False, help="With --kube: this namespace. Default: the context's."
    ),
]
ParallelOption = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        metavar="NUMBER",
        min=1,
        max=64,
        show_default=False,
        help="To how many hosts or clusters at the same time. Default: one after the other.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="With --kube or --quadlet: show what would change, as the API server or Podman says; change nothing.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--project-name",
        "-p",
        metavar="NAME",
        show_default=False,
        help="The project's name. Default: Compose's name for it; in `release ls`: all projects.",
    ),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--project-directory", metavar="FOLDER", show_default=False, help="The project's folder, as for Compose."
    ),
]
ProfileOption = Annotated[
    list[str] | None, typer.Option("--profile", metavar="NAME", show_default=False, help="Also enable this profile.")
]
EnvFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--env-file", metavar="FILE", show_default=False, help="Read variables from this file instead of .env."
    ),
]
WaitOption = Annotated[
    Duration,
    duration_option(
        "--wait",
        "How long services may take to be healthy, such as 90s or 5m.",
        at_least="1s",
        at_most="1d",
        show_default=True,
    ),
]
DEFAULT_WAIT: Final = Duration.parse("2m")
NoRecordOption = Annotated[
    bool, typer.Option("--no-record", help="Do not record the release in the ledgers of its registries.")
]
UpdateOption = Annotated[bool, typer.Option("--update", help="First lock the digests that the tags resolve to now.")]
BuildOption = Annotated[
    bool,
    typer.Option(
        "--build", help="Build services that have a build and no locked digest; without this they are refused."
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the unfinished release.")]
AnywayOption = Annotated[
    bool, typer.Option("--anyway", help="Deploy the files although they differ from what a rollback restored.")
]
TakeOverOption = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Replace a project of this name that was started from another folder; with --kube: fields of other managers.",
    ),
]
NoScrubOption = Annotated[bool, typer.Option("--no-scrub", help="Do not verify pulled images on the disk.")]
RequireScrubOption = Annotated[
    bool,
    typer.Option(
        "--require-scrub",
        help="Start no registry's image that was not verified on the disk; images of --build are not verified.",
    ),
]
