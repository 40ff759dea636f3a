"""`boltseal deploy`: deploy a Compose project; roll back if health checks fail."""

from __future__ import annotations

from boltseal.cli.deploy_options import (
    DEFAULT_WAIT,
    AnywayOption,
    BuildOption,
    DirectoryOption,
    EnvFileOption,
    FileOption,
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
from boltseal.cli.engine_options import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.project_options import AllowOption
from boltseal.cli.release_output import print_release
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.deploy import (
    DeployOptions,
    deploy_project,
    notify_release,
    open_deployable,
    project_files,
    resume,
)
from boltseal.commands.interrupted_update import undo_interrupted_update
from boltseal.commands.project_name import project_name
from boltseal.commands.registry_access import RegistryOptions
from boltseal.deploy.project_files import project_folder
from boltseal.errors import Invalid


@takes_registry_options
def deploy(
    services: ServicesArgument = None,
    file: FileOption = None,
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
    host: HostOption = None,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Deploy a Compose project, and roll back automatically if health checks fail.

    Checks the files against the lock, pulls every image by its digest and keeps the previous ones, records the release,
    starts it with Docker Compose, and waits for health. If a service does not become healthy, the previous release is
    started again, exactly, and the last log lines are shown.

    What runs already is not changed. The project's files are not changed.

    Exit code 0: the project runs; 1: the deployment failed, and the previous release runs again if possible; 3: it
    could not be tried.
    """
    with CommandOutput("deploy", as_json=as_json) as output:
        if resume_release and (services or update or build):
            raise Invalid("--resume continues a recorded release; it takes no services, --update or --build")
        options = DeployOptions(
            host,
            access,
            wait.seconds,
            record=not no_record,
            scrub=require_scrub or not no_scrub,
            require_scrub=require_scrub,
            take_over=take_over,
        )
        if resume_release:
            done = resume(options, project_name(project, options.client))
        else:
            named = project_files(file, project, project_directory, profile, env_file)
            undo_interrupted_update(options.client, project_folder(named))
            opened = open_deployable(options, named, services or [], allow or [])
            done = deploy_project(opened, update=update, build=build, anyway=anyway)
        print_release(output, done)
        notify_release(done, host, options.client)
