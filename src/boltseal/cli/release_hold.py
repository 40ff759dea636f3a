"""`boltseal release hold`: show what rollbacks of a project hold, and end it."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import NameOption
from boltseal.cli.engine_options import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.commands.project_name import project_name
from boltseal.commands.release_holds import end_hold, holds
from boltseal.commands.releases import image_text
from boltseal.commands.text import clean


def release_hold(
    project: NameOption = None,
    end: Annotated[bool, typer.Option("--end", help="End the hold, so that the images may be deployed again.")] = False,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what rollbacks hold: images that `update`, `lock --update` and `deploy` do not take until the hold is ended.

    Exit code 0: nothing is held, or the hold was ended; 1: images are held.
    """
    with CommandOutput("release-hold", as_json=as_json) as output:
        client = client_context()
        name = project_name(project, client)
        found = end_hold(name, client, host) if end else holds(name, client, host)
        output.outcome = found.outcome
        for each in found.images:
            output.add(
                ref=each.image,
                status="released" if end else "held",
                reason=each.reason,
                service=each.service,
                digest=each.digest or None,
            )
            image = image_text(each.image, each.digest)
            output.print(clean(f"{each.service}: {image} of {each.digest or each.image_id}: {each.reason}"))
        if found.images and not end:
            output.say(f"end it with: boltseal release hold --end --project-name {name}")
        if not found.rollbacks:
            output.print(f"no rollback of {name} holds anything")
        elif end:
            output.print(f"the hold of {name} is ended: release {', '.join(map(str, found.rollbacks))}")
