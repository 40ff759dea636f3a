"""`boltseal update`: deploy what mutable tags resolve to now, and propose newer versions of the other tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.deploy_options import (
    DEFAULT_WAIT,
    DirectoryOption,
    EnvFileOption,
    FileOption,
    NameOption,
    NoRecordOption,
    ProfileOption,
    ServicesArgument,
    WaitOption,
)
from boltseal.cli.durations import duration_option
from boltseal.cli.engine_options import HostOption
from boltseal.cli.explain_option import ExplainOption, print_explanations
from boltseal.cli.explanation_text import ExplainFormat
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.project_options import AllowOption
from boltseal.cli.release_output import print_release
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.table import print_table
from boltseal.commands.deploy import DeployOptions, notify_release, open_deployable, project_files
from boltseal.commands.explained_changes import Explanation
from boltseal.commands.interrupted_update import report_interrupted_update, undo_interrupted_update
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean
from boltseal.commands.update import UpdateRequest, update_project
from boltseal.deploy.project_files import project_folder
from boltseal.deploy.update_plan import UpdateStep
from boltseal.policy.durations import Duration


@takes_registry_options
def update(
    services: ServicesArgument = None,
    file: FileOption = None,
    project: NameOption = None,
    project_directory: DirectoryOption = None,
    profile: ProfileOption = None,
    env_file: EnvFileOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write newer versions into the files, and deploy them too.")
    ] = False,
    major: Annotated[bool, typer.Option("--major", help="Propose new major versions too.")] = False,
    cooldown: Annotated[
        Duration | None,
        duration_option("--cooldown", "Take an image only when we have known it so long, such as 3d."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    explain: ExplainOption = None,
    wait: WaitOption = DEFAULT_WAIT,
    no_record: NoRecordOption = False,
    host: HostOption = None,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Update a project's images, and roll back if health checks fail.

    Resolves mutable (floating) tags (`latest`, `1.25`). If one resolves to a new image, `update` locks it and deploys
    it as `deploy` does. It keeps versions (`1.25.3-alpine`) and proposes newer ones of the same form; with --write it
    writes them into the files. `[update] policy` of .boltseal.toml says which it takes by itself: revision, patch,
    minor or major. A digest that `boltseal pin` wrote moves with its tag; another tool's digest stays. It does not
    deploy an image again that failed here, nor what a rollback holds.

    --explain reads the old and the new images, and shows for each change who pushed it, whether the base or the sources
    changed, the packages and files, size, platforms, signatures, and which hosts run the old one. With --dry-run it
    only shows.

    Exit code 0: the project was up to date, or was deployed; 1: the deployment failed, and the previous release runs
    again; 3: a tag could not be resolved.
    """
    with CommandOutput("update", as_json=as_json or explain is ExplainFormat.JSON) as output:
        request = UpdateRequest(
            None if cooldown is None else cooldown.us, major, write, dry_run, explain=explain is not None
        )
        deploy_options = DeployOptions(host, access, wait.seconds, not no_record)
        named = project_files(file, project, project_directory, profile, env_file)
        settle = report_interrupted_update if dry_run else undo_interrupted_update
        settle(access.client, project_folder(named))
        report = update_project(
            request,
            open_deployable(deploy_options, named, services or [], allow or []),
            lambda only, registries: open_deployable(deploy_options, named, only, registries),
            access,
            lambda steps, explained: _print(output, steps, explained, explain, access.client.now_us()),
        )
        if report.release is not None:
            print_release(output, report.release)
            notify_release(report.release, host, access.client)
        if output.outcome is Outcome.HOLDS:
            output.outcome = report.outcome


def _print(
    output: CommandOutput,
    steps: Sequence[UpdateStep],
    explained: Sequence[Explanation],
    form: ExplainFormat | None,
    now_us: int,
) -> None:
    by_service = {place: each for each in explained for place in each.change.places}
    for step in steps:
        explanation = by_service.get(step.service)
        output.add(
            ref=step.image.familiar(),
            status=str(step.act),
            reason=step.why,
            service=step.service,
            digest=None if step.to is None else str(step.to),
            tag=None if step.tag is None else str(step.tag),
            **({} if explanation is None else {"explanation": explanation.as_json()}),
        )
    if form is not None:
        print_explanations(output, explained, form, now_us)
    if form is not ExplainFormat.MARKDOWN and not output.as_json:
        if form is not None:
            output.print("")
        rows = [(step.service, step.act, step.image.familiar(), clean(step.why)) for step in steps]
        print_table(("SERVICE", "DO", "IMAGE", "WHY"), rows, whole=("SERVICE", "DO"))
