"""`boltseal update`: take what floating tags mean now, safely, and propose newer versions of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, print_table
from boltseal.cli.clock import clock_us
from boltseal.cli.deploy_options import (
    DirectoryOption,
    EnvFileOption,
    FileOption,
    NameOption,
    NoRecordOption,
    ProfileOption,
    ServicesArgument,
    WaitOption,
)
from boltseal.cli.engine_options import HostOption
from boltseal.cli.onproject import AllowOption
from boltseal.cli.options import JsonOption
from boltseal.cli.release_output import print_release
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.commands.deploy import DeployOptions, notify_release, open_deployable, parse_wait, project_files
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from boltseal.deploy.update_plan import UpdateStep


class CooldownInvalid(Invalid):
    """A cooldown that is no time."""


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
    major: Annotated[bool, typer.Option("--major", help="Propose versions with a higher first number, too.")] = False,
    cooldown: Annotated[
        str, typer.Option("--cooldown", metavar="TIME", help="Take only what a tag has meant for so long, such as 3d.")
    ] = "0s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    wait: WaitOption = "120s",
    no_record: NoRecordOption = False,
    host: HostOption = None,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Update a project's images, and go back by itself if it does not get healthy.

    A tag that floats by intent (`latest`, `1.25`) is asked for what it means now; where that is new, it is locked and
    deployed as `deploy` does. A version (`1.25.3-alpine`) stays; newer ones of the same form are proposed, and written
    into the files only with --write. What did not get healthy here is not tried again by itself.

    Exit code 0: up to date, or it runs now; 1: it failed, and what ran before runs again; 3: something could not be told.
    """
    with CommandOutput("update", as_json=as_json) as answer:
        from boltseal.cli.onupdate import looked, taken
        from boltseal.deploy.update_plan import Act
        from boltseal.policy.durations import DurationInvalid, parse_duration

        try:
            cooldown_us = parse_duration(cooldown)
        except DurationInvalid as error:
            raise CooldownInvalid(f"--cooldown is {error.message}") from error
        place = DeployOptions(host, registry_options(plain_http, ca_file, anonymous), parse_wait(wait), not no_record)
        named = project_files(file, project, project_directory, profile, env_file)
        opened = open_deployable(place, named, services or [], allow or [])
        with opened.folder.deploying():
            found = looked(opened, now_us=clock_us(), cooldown_us=cooldown_us, major=major, remember=not dry_run)
            _tell(answer, found)
            chosen = [step for step in found if step.act is Act.TAKE or (write and step.act is Act.PROPOSE)]
            done = taken(opened, chosen) if chosen and not dry_run else None
        if done is not None:
            print_release(answer, done)
            notify_release(done, host, place.client)
        if answer.outcome is Outcome.HOLDS and any(step.act is Act.UNKNOWN for step in found):
            answer.outcome = Outcome.UNKNOWN


def _tell(answer: CommandOutput, found: tuple[UpdateStep, ...]) -> None:
    for step in found:
        answer.add(
            ref=step.image.familiar(),
            status=str(step.act),
            reason=step.why,
            service=step.service,
            digest=None if step.to is None else str(step.to),
            tag=None if step.tag is None else str(step.tag),
        )
    if not answer.as_json:
        rows = [(step.service, step.act, step.image.familiar(), clean(step.why)) for step in found]
        print_table(("SERVICE", "DO", "IMAGE", "WHY"), rows, whole=("SERVICE", "DO"))
