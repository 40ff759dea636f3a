"""`boltseal rollback`: deploy an older release again."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from boltseal.cli.deploy_hosts import rollback_hosts
from boltseal.cli.deploy_kube import KubeRun, rollback_kube
from boltseal.cli.deploy_options import (
    DEFAULT_WAIT,
    DirectoryOption,
    KubeNamespaceOption,
    KubeOption,
    NameOption,
    NoRecordOption,
    WaitOption,
)
from boltseal.cli.deploy_quadlet import NoStartOption, QuadletOption, rollback_quadlet
from boltseal.cli.git_release import GitBranchOption, GitRemoteOption, check_alone, git_request, print_git_release
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.release_output import print_release
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.report_options import ReportAsOption, ReportOption, show_report
from boltseal.cli.target_options import Targets, takes_targets
from boltseal.commands.deploy import (
    DeployOptions,
    notify_release,
    roll_back,
)
from boltseal.commands.deploy_report import release_report_target, report_release
from boltseal.commands.git_rollback import roll_back_branch
from boltseal.commands.host_reports import ReportOptions, ReportTarget
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_name import project_name
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.release_files import RolledBack
from boltseal.commands.text import clean
from boltseal.errors import Invalid

_MAX_VOLUMES: Final = 5
"""How many volumes of a service are named."""


@takes_registry_options
@takes_targets
def rollback(
    number: Annotated[
        int | None,
        typer.Argument(metavar="[NUMBER]", show_default=False, help="A release. Default: the one that ran before."),
    ] = None,
    project: NameOption = None,
    files: Annotated[
        bool,
        typer.Option(
            "--restore-files", help="Also restore the project's recorded files, with env_file, secrets and configs."
        ),
    ] = False,
    wait: WaitOption = DEFAULT_WAIT,
    report: ReportOption = None,
    report_as: ReportAsOption = None,
    no_record: NoRecordOption = False,
    git_branch: GitBranchOption = None,
    git_remote: GitRemoteOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="COMMIT",
            show_default=False,
            help="With --git-branch: the commit of the release to go back to.",
        ),
    ] = None,
    project_directory: DirectoryOption = None,
    kube: KubeOption = None,
    namespace: KubeNamespaceOption = None,
    quadlet: QuadletOption = False,
    no_start: NoStartOption = False,
    *,
    targets: Targets,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Deploy an older release again: its settings, environment and images together, exactly.

    The rollback holds what it took back: `update`, `lock --update` and `deploy` do not take it until `boltseal release
    hold --end`. A second rollback without a number changes nothing.

    With several hosts, each one goes back to the release that ran before on it; if one fails, all go forward again.

    With --kube, the recorded manifests are applied to a cluster again, without their jobs.

    With --quadlet, the drop-in files of the recorded release are used again. The units must be those of that release;
    --restore-files restores them.

    Everything comes from this host, without a registry or git, unless an image was removed. The rollback is a release
    itself, and can be rolled back. Data in volumes is not changed.

    --git-branch commits the digests of an earlier release of that branch to it, for Flux or Argo CD; --restore-files takes
    its whole folder. The commit has boltseal.holds, which holds what it took back.

    Exit code 0: the release runs; 1: the rollback failed, or there is no earlier release; 3: it could not be tried. With
    --git-branch nothing runs: 0: the branch has the commit; 1: nothing was committed; 3: it could not be tried, or the branch
    moved meanwhile.
    """
    with CommandOutput("rollback", as_json=as_json) as output:
        if git_branch is not None or git_remote is not None:
            check_alone(
                {
                    "NUMBER": number is not None,
                    "--project-name": project,
                    "--host, --hosts-file or --canary": targets.given,
                    "--kube": kube,
                    "--namespace": namespace,
                    "--report": report,
                    "--quadlet": quadlet,
                }
            )
            request = git_request(project_directory, git_branch, git_remote)
            print_git_release(output, roll_back_branch(request, to or "", restore_files=files), "restored")
            return
        if to is not None:
            raise Invalid("--to needs --git-branch; a release of an engine is given by its number")
        registries = access
        options = DeployOptions(
            None if targets.several else targets.host, registries, wait.seconds, record=not no_record
        )
        if quadlet:
            if kube or namespace or report or targets.several or targets.canary or targets.parallel:
                raise Invalid(
                    "--kube, --namespace, --report, --canary, --parallel and several hosts can't be combined with --quadlet"
                )
            rollback_quadlet(output, options, project_directory, project, number, restore=files, start=not no_start)
            return
        if no_start:
            raise Invalid("--no-start needs --quadlet")
        if kube:
            if files or targets.given or report:
                raise Invalid(
                    "--restore-files, --host, --hosts-file, --canary and --report are about Docker Compose and can't be combined with --kube"
                )
            run = KubeRun(kube, namespace, project, project_directory, at_once=targets.parallel or 1)
            rollback_kube(output, options, run, number)
            return
        if namespace:
            raise Invalid("--namespace needs --kube")
        if targets.several:
            reporting = ReportOptions(report, report_as)
            name = project_name(project, options.client)
            rollback_hosts(output, options, targets, name, reporting, refused=(number is not None, files))
            return
        targets.check_one()
        target = release_report_target(options, ReportOptions(report, report_as))
        after = roll_back(options, project_name(project, options.client), number, restore=files)
        _print(output, options, after)
        _report(output, options, target, after)


def _report(output: CommandOutput, options: DeployOptions, target: ReportTarget | None, after: RolledBack) -> None:
    if target is not None:
        show_report(output, report_release(options, target, after.done.release))


def _print(output: CommandOutput, options: DeployOptions, after: RolledBack) -> None:
    done = after.done
    print_release(output, done)
    notify_release(done, options.host, options.client)
    if output.outcome is not Outcome.HOLDS:
        return
    release = done.release
    for service in release.services if done.outcome is not None else ():
        for volume in service.volumes[:_MAX_VOLUMES]:
            say(clean(f"data is unchanged: {service.name} has {volume}"))
    if after.restored:
        say(clean(f"restored files: {', '.join(after.restored)}"))
    if after.denied:
        say(
            clean(
                f"not restored, because they belong to another user: {', '.join(after.denied)}; restore them as that user or as root"
            )
        )
    if after.different:
        say(
            clean(
                f"the project's files differ from the running release ({', '.join(after.different[:5])}): "
                "`boltseal deploy` refuses them. Restore them by `boltseal rollback "
                f"{release.number} --project-name {release.project} --restore-files`, or deploy them by "
                "`boltseal deploy --anyway`"
            )
        )
