"""`boltseal labels`: where an image came from, as flags of `docker build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, print_line
from boltseal.cli.clock import clock_us
from boltseal.cli.onbuild import BuildArgOption, ContextArgument, FileOption, TargetOption, digests_of, dockerfile_of
from boltseal.cli.onproject import AllowOption
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options

if TYPE_CHECKING:
    from boltseal.build.git_state import GitState


def labels(
    context: ContextArgument = Path(),
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="TEXT", show_default=False, help="Default: what git describe says."),
    ] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Also as --annotation, which only buildx knows.")
    ] = False,
    file: FileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print an image's origin as docker build flags.

    revision and source as git knows them, version, created (SOURCE_DATE_EPOCH, or now), and the name and digest of the
    base image: its pin, what boltseal.lock says, or what its tag means now. One flag a line, quoted for a shell.
    """
    with CommandOutput("labels", as_json=as_json) as answer:
        from boltseal.build.labels import as_flags, labels_of
        from boltseal.build.tag_template import describe_tag

        git = git_of(context)
        dockerfile = None
        if file is not None or (context / "Dockerfile").is_file():
            dockerfile = dockerfile_of(context, file, build_arg or [], target)
        site = None if dockerfile is None else dockerfile.base
        base = None
        if site is not None and site.resolved is not None:
            digests = digests_of([site], context, registry_options(plain_http, ca_file, anonymous), allow or [])
            base = (site.resolved, digests[site])
        described = "" if git is None else str(describe_tag(git.described, git.dirt))
        found = labels_of(git, described if version is None else version, created_us(), base)
        answer.add(ref=str(context), status="labels", reason="", labels=found)
        if not as_json:
            for flag in as_flags(found, annotations=annotations):
                print_line(flag)


def git_of(context: Path) -> GitState | None:
    """What git says of a folder, None where it is in no repository. GitFailed."""
    from boltseal.build.git_state import NotGit, git_state

    try:
        return git_state(context)
    except NotGit:
        return None


def created_us() -> int:
    """When an image is made: SOURCE_DATE_EPOCH, or now; in microseconds since the epoch."""

    from boltseal.config import build_environment

    epoch_s = build_environment().epoch_s
    return clock_us() if epoch_s is None else epoch_s * 1_000_000
