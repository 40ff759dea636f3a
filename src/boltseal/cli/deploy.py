"""`boltseal deploy`: deploy a Compose project; roll back if health checks fail."""

from __future__ import annotations

from functools import partial

from boltseal.cli.deploy_hosts import HostsCommand, deploy_hosts
from boltseal.cli.deploy_kube import KubeRun, deploy_kube
from boltseal.cli.deploy_options import (
    DEFAULT_WAIT,
    AnywayOption,
    BuildOption,
    DirectoryOption,
    DryRunOption,
    EnvFileOption,
    KubeNamespaceOption,
    KubeOption,
    ManifestOption,
    NameOption,
    NoRecordOption,
    NoScrubOption,
    ProfileOption,
    RequireScrubOption,
    ResumeOption,
    ServicesArgument,
    TakeOverOption,
    UpdateOption,
    WaitOption,
)
from boltseal.cli.deploy_quadlet import NoStartOption, QuadletOption, deploy_quadlet
from boltseal.cli.git_release import (
    GitBranchOption,
    GitRemoteOption,
    check_alone,
    git_message,
    git_request,
    print_git_release,
)
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.project_options import AllowOption
from boltseal.cli.release_output import print_release
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.report_options import ReportAsOption, ReportOption, show_report
from boltseal.cli.target_options import Targets, takes_targets
from boltseal.commands.deploy import (
    DeployOptions,
    deploy_project,
    notify_release,
    open_deployable,
    project_files,
    resume,
)
from boltseal.commands.deploy_report import release_report_target, report_release
from boltseal.commands.git_release import deploy_to_branch
from boltseal.commands.host_reports import ReportOptions
from boltseal.commands.interrupted_update import undo_interrupted_update
from boltseal.commands.project_name import project_name
from boltseal.commands.registry_access import RegistryOptions
from boltseal.deploy.project_files import project_folder
from boltseal.errors import Invalid


@takes_registry_options
@takes_targets
def deploy(
    services: ServicesArgument = None,
    file: ManifestOption = None,
    project: NameOption = None,
    project_directory: DirectoryOption = None,
    profile: ProfileOption = None,
    env_file: EnvFileOption = None,
    update: UpdateOption = False,
    build: BuildOption = False,
    resume_release: ResumeOption = False,
    anyway: AnywayOption = False,
    take_over: TakeOverOption = False,
    wait: WaitOption = DEFAULT_WAIT,
    no_record: NoRecordOption = False,
    no_scrub: NoScrubOption = False,
    require_scrub: RequireScrubOption = False,
    kube: KubeOption = None,
    namespace: KubeNamespaceOption = None,
    quadlet: QuadletOption = False,
    no_start: NoStartOption = False,
    dry_run: DryRunOption = False,
    allow: AllowOption = None,
    report: ReportOption = None,
    report_as: ReportAsOption = None,
    git_branch: GitBranchOption = None,
    git_remote: GitRemoteOption = None,
    *,
    targets: Targets,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Deploy a Compose project, and roll back automatically if health checks fail.

    Checks the files against the lock, pulls every image by its digest and keeps the previous ones, records the release,
    starts it with Docker Compose, and waits for health. If a service does not become healthy, the previous release is
    started again, exactly, and the last log lines are shown.

    With --kube, manifests are applied to clusters by server-side apply, with every image by its digest; the release is
    waited for as by `kubectl rollout status`, and if it fails, the previous one is applied again, without its jobs.

    --report, or `report` of the user's settings, sends the release, its images by digest and how it ended to a boltseal
    registry. Whether that worked is shown, and does not change the exit code.

    With --quadlet, a drop-in file sets the image of each of Podman's systemd units to its digest, and changed services are
    restarted; if one does not run, the drop-in files of the previous release are used again. The units are not changed.

    With several hosts, all of them are checked before one is touched; if one fails, every host goes back that was changed.

    What runs already is not changed. The project's files are not changed.

    --git-branch applies nothing: it commits the files of a branch, every image pinned by digest, and their lock to that
    branch, with the explanation of each change as message. It reads and changes only the branch, not your work tree.

    Exit code 0: the project runs; 1: the deployment failed, and the previous release runs again if possible; 3: it could
    not be tried. With --git-branch nothing runs: 0: the branch has the commit; 1: nothing was committed, since an image can't
    be pinned or is held; 3: it could not be tried, or the branch moved meanwhile.
    """
    with CommandOutput("deploy", as_json=as_json) as output:
        if git_branch is not None or git_remote is not None:
            check_alone(
                {
                    "SERVICE": services,
                    "--file": file,
                    "--project-name": project,
                    "--profile": profile,
                    "--env-file": env_file,
                    "--build": build,
                    "--resume": resume_release,
                    "--anyway": anyway,
                    "--take-over": take_over,
                    "--require-scrub": require_scrub,
                    "--host, --hosts-file or --canary": targets.given,
                    "--kube": kube,
                    "--namespace": namespace,
                    "--parallel": targets.parallel,
                    "--quadlet": quadlet,
                    "--dry-run": dry_run,
                    "--report": report,
                }
            )
            request = git_request(project_directory, git_branch, git_remote, update=update, allow=allow)
            print_git_release(output, deploy_to_branch(request, access, git_message(access)), "deployed")
            return
        if resume_release and (services or update or build):
            raise Invalid("--resume continues a recorded release; it takes no services, --update or --build")
        options = DeployOptions(
            None if targets.several else targets.host,
            access,
            wait.seconds,
            record=not no_record,
            scrub=require_scrub or not no_scrub,
            require_scrub=require_scrub,
            take_over=take_over,
        )
        if quadlet:
            others = (
                services, file, build, update, profile, env_file, take_over, kube, namespace, report,
                targets.parallel, targets.several, targets.canary,
            )  # fmt: skip
            deploy_quadlet(
                output, options, project_directory, project, allow or [],
                resumed=resume_release, dry_run=dry_run, anyway=anyway, start=not no_start, refused=others,
            )  # fmt: skip
            return
        if no_start:
            raise Invalid("--no-start needs --quadlet")
        if kube:
            compose_only = (services, build, update, profile, env_file, targets.given, no_scrub, require_scrub, report)
            clusters = KubeRun(kube, namespace, project, project_directory, file, targets.parallel or 1)
            deploy_kube(
                output, options, clusters, resumed=resume_release, dry_run=dry_run, anyway=anyway, refused=compose_only
            )
            return
        if namespace or dry_run:
            raise Invalid("--namespace needs --kube, --dry-run needs --kube or --quadlet")
        if targets.several:
            files = partial(project_files, file, project, project_directory, profile, env_file)
            reporting = ReportOptions(report, report_as)
            run = HostsCommand(
                targets, project, files, services or [], allow or [], reporting, resumed=resume_release, anyway=anyway
            )
            deploy_hosts(output, options, run, refused=(update, build))
            return
        targets.check_one()
        target = release_report_target(options, ReportOptions(report, report_as))
        if resume_release:
            done = resume(options, project_name(project, options.client))
        else:
            named = project_files(file, project, project_directory, profile, env_file)
            undo_interrupted_update(options.client, project_folder(named))
            opened = open_deployable(options, named, services or [], allow or [])
            done = deploy_project(opened, update=update, build=build, anyway=anyway)
        print_release(output, done)
        notify_release(done, targets.host, options.client)
        if target is not None:
            show_report(output, report_release(options, target, done.release))
