"""`boltseal build`: docker build, docker buildx build or buildah bud, with base images by digest, and a record of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from boltseal.build.builders import Builder
from boltseal.build.tag_template import Scheme
from boltseal.cli.build_labels import print_labels
from boltseal.cli.build_options import BuildArgOption, ContextArgument, DockerfileOption, TargetOption
from boltseal.cli.clock import clock_us
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.build import BuildRequest, build_image
from boltseal.commands.build_inputs import BuildInputs
from boltseal.commands.build_labels import LabelsRequest, image_time_us
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import build_environment
from boltseal.errors import Invalid


@takes_registry_options
def build(
    context: ContextArgument = Path(),
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENT...]", show_default=False, help="Further arguments for the builder."),
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", "-r", metavar="REPOSITORY", help="Push the image there.", show_default=False)
    ] = "",
    scheme: Annotated[
        Scheme, typer.Option("--scheme", help="What its tag is made of; content is not known before the build.")
    ] = Scheme.INPUT,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", show_default=False, help="This tag instead.")
    ] = None,
    builder: Annotated[
        Builder | None,
        typer.Option("--builder", show_default=False, help="Default: buildx, else one that is installed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if an image of the same inputs is there.")] = False,
    only_labels: Annotated[
        bool, typer.Option("--print-labels", help="Build nothing: print the labels as flags of docker build.")
    ] = False,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="TEXT",
            show_default=False,
            help="With --print-labels: default: the output of git describe.",
        ),
    ] = None,
    annotations: Annotated[
        bool,
        typer.Option("--annotations", help="With --print-labels: also as --annotation, which only buildx supports."),
    ] = False,
    file: DockerfileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="PLATFORM,...", show_default=False, help="The platforms to build for."),
    ] = None,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Build and push an image with its base images pinned and recorded.

    Wraps docker buildx build, docker build or buildah bud. Every image that the Dockerfile names is used by digest: its
    pin, its entry in boltseal.lock, or what its tag resolves to now. Labels say where the image comes from; the tag is
    new; the registry's ledger records the inputs. If base images, Dockerfile and context are as before, it builds
    nothing.

    --print-labels prints an image's origin for a build of your own: revision and source by git, version, created
    (SOURCE_DATE_EPOCH, or now), and the name and digest of the base image. One flag a line, quoted for a shell.
    """
    with CommandOutput("build", as_json=as_json) as output:
        environment = build_environment()
        created_us = image_time_us(environment.epoch_s, clock_us())
        inputs = BuildInputs(context, file, tuple(build_arg or ()), target, platform, tuple(more or ()))
        if only_labels:
            of = LabelsRequest(inputs, created_us, version, tuple(allow or ()))
            print_labels(output, of, access, annotations=annotations)
            return
        if version is not None or annotations:
            raise Invalid("--version and --annotations are for --print-labels; add it, or leave them out")
        request = BuildRequest(
            inputs=inputs,
            repository=repository,
            created_us=created_us,
            scheme=scheme,
            tag=tag,
            builder=builder,
            force=force,
            build_number=environment.number,
            allow=tuple(allow or ()),
        )
        report = build_image(request, access, sys.stderr)
        output.add(
            ref=report.image,
            status=report.status,
            reason=report.reason,
            digest=report.digest,
            inputs=report.inputs,
            base=None if report.base is None else str(report.base[0]),
            base_digest=None if report.base is None else str(report.base[1]),
        )
        if report.reason:
            say(f"boltseal: {report.image}: {report.reason}")
        output.print(f"{report.image}@{report.digest}")
