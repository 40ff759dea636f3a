"""`boltseal rollback`: deploy an older release again."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from boltseal.cli.deploy_options import DEFAULT_WAIT, NameOption, NoRecordOption, WaitOption
from boltseal.cli.engine_options import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.release_output import print_release
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.deploy import (
    DeployOptions,
    notify_release,
    roll_back,
)
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_name import project_name
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean

_MAX_VOLUMES: Final = 5
"""How many volumes of a service are named."""


@takes_registry_options
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
    no_record: NoRecordOption = False,
    host: HostOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Deploy an older release again: its settings, environment and images together, exactly.

    The rollback holds what it took back: `update`, `lock --update` and `deploy` do not take it until `boltseal release
    hold --end`. A second rollback without a number changes nothing.

    Everything comes from this host, without a registry or git, unless an image was removed. The rollback is a release
    itself, and can be rolled back. Data in volumes is not changed.

    Exit code 0: the release runs; 1: the rollback failed, or there is no earlier release; 3: it could not be tried.
    """
    with CommandOutput("rollback", as_json=as_json) as output:
        registries = access
        options = DeployOptions(host, registries, wait.seconds, record=not no_record)
        after = roll_back(options, project_name(project, options.client), number, restore=files)
        done = after.done
        print_release(output, done)
        notify_release(done, host, options.client)
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
