"""`boltseal tag new`: print a unique tag for a build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.build.tag_template import Scheme
from boltseal.cli.build_options import BuildArgOption, ContextArgument, DockerfileOption, TargetOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import takes_registry_options
from boltseal.commands import tag_new as use_case
from boltseal.commands.build_inputs import BuildInputs
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import build_environment


@takes_registry_options
def tag_new(
    context: ContextArgument = Path(),
    scheme: Annotated[Scheme, typer.Option("--scheme", help="What the tag is made of.")] = Scheme.DESCRIBE,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", show_default=False, help="content: an image of the daemon."),
    ] = None,
    apply: Annotated[
        str | None,
        typer.Option(
            "--apply", metavar="IMAGE", show_default=False, help="Also tag this image of the daemon with the new tag."
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="REPOSITORY", show_default=False, help="Check that the tag is free there."),
    ] = None,
    file: DockerfileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="PLATFORM", show_default=False, help="input: the platform of the build."),
    ] = None,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Print a unique tag for a build.

    describe: git describe, and a hash of uncommitted changes. date: the time. build: the pipeline's number. content:
    the image's own digest. input: a hash of Dockerfile, context, arguments and base digests: same inputs, same tag.

    Exit code 1: with --check, the tag is taken; no image was tagged.
    """
    with CommandOutput("tag-new", as_json=as_json) as output:
        request = use_case.NewTagRequest(
            scheme=scheme,
            inputs=BuildInputs(context, file, tuple(build_arg or ()), target, platform),
            image=image,
            apply=apply,
            check=check,
            build_number=build_environment().number if scheme is Scheme.BUILD else "",
            allow=tuple(allow or ()),
        )
        report = use_case.new_tag(request, access)
        output.outcome = report.outcome
        tag = str(report.tag)
        if report.taken is not None:
            output.add(ref=f"{check}:{tag}", status="taken", reason=report.taken, tag=tag, scheme=scheme)
            say(f"boltseal: {check}:{tag} is {report.taken}")
            return
        output.add(
            ref=tag if check is None else f"{check}:{tag}",
            status="new" if check is None else "free",
            reason="" if report.applied is None else f"the daemon's image is {report.applied} too",
            tag=tag,
            scheme=scheme,
            applied=report.applied,
        )
        output.print(tag)
