"""`boltseal tag new`: print a unique tag for a build."""

from __future__ import annotations

from pathlib import Path

from boltseal.build.tag_template import Scheme
from boltseal.cli.build_options import (
    BuildArgOption,
    ContextArgument,
    DockerfileOption,
    RevisionOfOption,
    SeparatorOption,
    TargetOption,
)
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.tag_new_options import (
    ApplyOption,
    CheckOption,
    ImageOption,
    PlatformOption,
    SchemeOption,
)
from boltseal.commands import tag_new as use_case
from boltseal.commands.build_inputs import BuildInputs
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import build_environment
from boltseal.policy.tag_revisions import DOT, parse_separator


@takes_registry_options
def tag_new(
    context: ContextArgument = Path(),
    scheme: SchemeOption = Scheme.DESCRIBE,
    image: ImageOption = None,
    apply: ApplyOption = None,
    check: CheckOption = None,
    of: RevisionOfOption = None,
    separator: SeparatorOption = DOT,
    file: DockerfileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    platform: PlatformOption = None,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Print a unique tag for a build.

    describe: git describe, and a hash of uncommitted changes. date: the time. build: the pipeline's number. content:
    the image's own digest. input: a hash of Dockerfile, context, arguments and base digests: same inputs, same tag.
    revision: the next rebuild of a sealed tag (--of 1.4.2 --check REPOSITORY): 1.4.2.1, after 1.4.2 and before 1.4.3.

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
            revision_of=of,
            separator=parse_separator(separator),
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
