"""`boltseal deploy --quadlet` and `boltseal rollback --quadlet`: the part of these commands that works on Podman's systemd units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.release_output import print_release
from boltseal.commands.deploy import DeployOptions, notify_release
from boltseal.commands.deploy_quadlet import (
    deploy_units,
    preview_units,
    quadlet_request,
    resume_units,
    roll_back_units,
)
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid

QuadletOption = Annotated[
    bool,
    typer.Option("--quadlet", help="The project is a folder of Podman's systemd units (Quadlet) on this host."),
]

NoStartOption = Annotated[
    bool,
    typer.Option(
        "--no-start", help="With --quadlet: write and check the drop-in files, without systemd; start nothing."
    ),
]
_OTHERS: Final = "SERVICE, --file, --build, --update, --profile, --env-file, --take-over, --kube, --namespace, --parallel, --canary, --report and several hosts"


def deploy_quadlet(
    output: CommandOutput,
    options: DeployOptions,
    directory: Path | None,
    project: str | None,
    allow: Sequence[str],
    *,
    resumed: bool,
    dry_run: bool,
    anyway: bool,
    start: bool,
    refused: Sequence[object],
) -> None:
    """Deploy units, or show what that would change. `refused`: values of options that do not apply to units."""
    if any(refused):
        raise Invalid(f"{_OTHERS} can't be combined with --quadlet; lock and update by `boltseal lock`")
    if resumed and dry_run:
        raise Invalid("--resume continues a recorded release; it takes no --dry-run")
    request = quadlet_request(options, directory or Path(), project, start=start and not dry_run, allow=allow)
    if dry_run:
        changes = preview_units(request)
        for each in changes:
            output.add(ref=each.name, status=each.status, reason=each.reason, diff=list(each.diff))
            if not output.as_json and each.status != "unchanged":
                print_line(clean(f"{each.name}: {each.status}"))
                for line in each.diff:
                    print_line(clean(line))
        changed = sum(each.status != "unchanged" for each in changes)
        output.print(f"{changed} of {counted(len(changes), 'service')} would change; nothing was changed")
        return
    done = resume_units(request) if resumed else deploy_units(request, anyway=anyway)
    print_release(output, done)
    notify_release(done, None, options.client)


def rollback_quadlet(
    output: CommandOutput,
    options: DeployOptions,
    directory: Path | None,
    project: str | None,
    number: int | None,
    *,
    restore: bool,
    start: bool,
) -> None:
    """Roll back units."""
    request = quadlet_request(options, directory or Path(), project, start=start)
    done, restored = roll_back_units(request, number, restore=restore)
    print_release(output, done)
    notify_release(done, None, options.client)
    if restored:
        say(clean(f"restored files: {', '.join(restored)}"))
