"""`boltseal deploy`: make a Compose project run as its files and lock say, or put back what ran before."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.answer import CommandOutput
from boltseal.cli.ondeploy import (
    DeployOptions,
    DirectoryOption,
    EnvFileOption,
    FileOption,
    NameOption,
    NoRecordOption,
    ProfileOption,
    ServicesArgument,
    WaitOption,
    on_engine,
    open_named,
    project_files,
    project_name,
    wait_seconds,
)
from boltseal.cli.onhost import HostOption, engine_address
from boltseal.cli.onrelease import release_folder, tell_release
from boltseal.cli.options import JsonOption
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, RegistryOptions
from boltseal.errors import Invalid


class ResumeAlone(Invalid):
    """--resume goes on with what was recorded, and takes nothing else."""


def deploy(
    services: ServicesArgument = None,
    file: FileOption = None,
    project: NameOption = None,
    project_directory: DirectoryOption = None,
    profile: ProfileOption = None,
    env_file: EnvFileOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Lock what the tags mean now before it is deployed.")
    ] = False,
    build: Annotated[
        bool,
        typer.Option(
            "--build", help="Build what is built here and not locked; without this such a service is refused."
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the release that was left unfinished.")] = False,
    wait: WaitOption = "120s",
    no_record: NoRecordOption = False,
    no_scrub: Annotated[bool, typer.Option("--no-scrub", help="Do not prove on the disk what was pulled.")] = False,
    require_scrub: Annotated[
        bool,
        typer.Option(
            "--require-scrub",
            help="Start nothing of a registry's that could not be proven on the disk; what --build makes is not proven.",
        ),
    ] = False,
    host: HostOption = None,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy a Compose project, and go back by itself if it does not get healthy.

    Checks the files against the lock, brings every image by its digest and keeps the one that works, records the
    release, starts it with Docker Compose, and waits for health. What does not get healthy is replaced by the release
    that ran before, exactly, and its last log lines are shown.

    What runs already is left alone. The project's files are not touched.

    Exit code 0: it runs; 1: it failed, and what ran before runs again if it could be put back; 3: it could not be tried.
    """
    with CommandOutput("deploy", as_json=as_json) as answer:
        from boltseal.cli.remote import client_context
        from boltseal.commands.interrupted_update import undo_interrupted_update
        from boltseal.deploy.project_files import project_folder
        from boltseal.deploy.releases import ReleaseKind

        if resume and (services or update or build):
            raise ResumeAlone(
                "--resume goes on with a release as it was recorded; it takes neither services nor changes"
            )
        reach = RegistryOptions(plain_http, ca_file, anonymous)
        place = DeployOptions(
            host, reach, wait_seconds(wait), not no_record, require_scrub or not no_scrub, require_scrub
        )
        if resume:
            folder = release_folder(project_name(project), engine_address(host).key)
            done = on_engine(place, folder, [], lambda deployer: deployer.resume())
        else:
            named = project_files(file, project, project_directory, profile, env_file)
            undo_interrupted_update(client_context(), project_folder(named))
            opened = open_named(place, named, services or [], allow or [])
            with opened.folder.deploying():
                if update:
                    opened.relock(lambda _reference: True)
                if build:
                    opened = opened.built()
                done = opened.deploy(ReleaseKind.DEPLOY)
        tell_release(answer, done, host)
