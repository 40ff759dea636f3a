"""`boltseal build`: docker build, docker buildx build or buildah bud, with base images by digest, and a record of them."""

from __future__ import annotations

import sys
from pathlib import Path

from boltseal.build.tag_template import Scheme
from boltseal.cli.build_labels import print_labels
from boltseal.cli.build_options import (
    BuildArgOption,
    ContextArgument,
    DockerfileOption,
    RevisionOfOption,
    SeparatorOption,
    TargetOption,
)
from boltseal.cli.clock import clock_us
from boltseal.cli.image_build_options import (
    AnnotationsOption,
    BuilderOption,
    ForceOption,
    MoreArgument,
    OnlyLabelsOption,
    PlatformOption,
    RepositoryOption,
    SchemeOption,
    TagOption,
    VersionOption,
)
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.build import BuildReport, BuildRequest, build_image
from boltseal.commands.build_inputs import BuildInputs
from boltseal.commands.build_labels import LabelsRequest, image_time_us
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import build_environment
from boltseal.errors import Invalid
from boltseal.policy.tag_revisions import DOT, parse_separator


@takes_registry_options
def build(
    context: ContextArgument = Path(),
    more: MoreArgument = None,
    repository: RepositoryOption = "",
    scheme: SchemeOption = Scheme.INPUT,
    tag: TagOption = None,
    of: RevisionOfOption = None,
    separator: SeparatorOption = DOT,
    builder: BuilderOption = None,
    force: ForceOption = False,
    only_labels: OnlyLabelsOption = False,
    version: VersionOption = None,
    annotations: AnnotationsOption = False,
    file: DockerfileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    platform: PlatformOption = None,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Build and push an image with its base images pinned and recorded.

    Wraps docker buildx build, docker build or buildah bud. Every image that the Dockerfile names is used by digest: its
    pin, its entry in boltseal.lock, or what its tag resolves to now. Labels say where the image comes from; the tag is
    new; the registry's ledger records the inputs. If base images, Dockerfile and context are as before, it builds
    nothing. With --scheme revision --of 1.4.2 it makes the next rebuild of a sealed tag, 1.4.2.1, and labels and ledger
    record which change of the base it carries.

    --print-labels prints an image's origin for a build of your own: revision and source by git, version, created
    (SOURCE_DATE_EPOCH, or now), and the name and digest of the base image. One flag a line, quoted for a shell.
    """
    with CommandOutput("build", as_json=as_json) as output:
        environment = build_environment()
        created_us = image_time_us(environment.epoch_s, clock_us())
        inputs = BuildInputs(context, file, tuple(build_arg or ()), target, platform, tuple(more or ()))
        if only_labels:
            wanted = LabelsRequest(inputs, created_us, version, tuple(allow or ()))
            print_labels(output, wanted, access, annotations=annotations)
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
            revision_of=of,
            separator=parse_separator(separator),
        )
        _print(output, build_image(request, access, sys.stderr))


def _print(output: CommandOutput, report: BuildReport) -> None:
    base, base_digest = (None, None) if report.base is None else map(str, report.base)
    output.add(
        ref=report.image,
        status=report.status,
        reason=report.reason,
        digest=report.digest,
        inputs=report.inputs,
        base=base,
        base_digest=base_digest,
    )
    if report.reason:
        say(f"{report.image}: {report.reason}")
    output.print(f"{report.image}@{report.digest}")
