"""`boltseal labels`: print where an image comes from as flags of `docker build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.build.labels import as_flags
from boltseal.cli.build_options import BuildArgOption, ContextArgument, DockerfileOption, TargetOption
from boltseal.cli.clock import clock_us
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, print_line
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.commands.build_inputs import BuildInputs
from boltseal.commands.labels import LabelsRequest, image_labels, image_time_us
from boltseal.config import build_environment


def labels(
    context: ContextArgument = Path(),
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="TEXT", show_default=False, help="Default: the output of git describe."),
    ] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Also as --annotation, which only buildx supports.")
    ] = False,
    file: DockerfileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print an image's origin as docker build flags.

    revision and source by git, version, created (SOURCE_DATE_EPOCH, or now), and the name and digest of the base
    image: its pin, its entry in boltseal.lock, or what its tag resolves to now. One flag a line, quoted for a shell.
    """
    with CommandOutput("labels", as_json=as_json) as output:
        request = LabelsRequest(
            inputs=BuildInputs(context, file, tuple(build_arg or ()), target),
            created_us=image_time_us(build_environment().epoch_s, clock_us()),
            version=version,
            allow=tuple(allow or ()),
        )
        found = image_labels(request, registry_options(plain_http, ca_file, anonymous))
        output.add(ref=str(context), status="labels", reason="", labels=found)
        if not as_json:
            for flag in as_flags(found, annotations=annotations):
                print_line(flag)
