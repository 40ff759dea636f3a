"""`boltseal admin expire`: delete sealed tags whose retention time is over."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.commands.text import counted
from boltseal.server.commands.data_folder import local_admin, on_store


def admin_expire(
    config: ConfigOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the tags.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the sealed tags whose `keep` (such as "365d") is over, for example by cron before `boltseal admin gc`.

    The tags can return only with the same digest. Their images stay pullable until they are deleted.
    """
    with CommandOutput("admin-expire", as_json=as_json) as output:
        settings = store_settings(config, data)
        status = "would expire" if dry_run else "expired"
        tags = on_store(settings, lambda store: store.registry.seals.expire(local_admin(), dry_run=dry_run))
        for repository, tag in tags:
            output.add(ref=f"{repository}:{tag}", status=status)
            output.print(f"{repository}:{tag}")
        output.say(
            f"{counted(len(tags), 'tag')} {status}{'; they can return only with the same digest' if tags else ''}"
        )
