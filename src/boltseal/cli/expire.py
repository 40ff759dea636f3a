"""`boltseal expire`: take away the tags whose stated time to be kept is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, counted, print_line, say
from boltseal.cli.onstore import admin, on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of

if TYPE_CHECKING:
    from boltseal.server.registry.seals import ExpiredTag
    from boltseal.server.store_factory import OpenStore


def expire(
    config: ConfigOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take away the sealed tags whose keep (such as "365d") is over. Their names stay bound. For cron, before collect.

    What they meant stays pullable by digest until somebody deletes that.
    """
    with CommandOutput("expire", as_json=as_json) as answer:
        settings = settings_of(config, data=data)

        async def call(store: OpenStore) -> list[ExpiredTag]:
            return await store.registry.seals.expire(admin(), dry_run=dry_run)

        status = "would expire" if dry_run else "expired"
        for repository, tag in on_store(settings, call):
            answer.add(ref=f"{repository}:{tag}", status=status)
            if not as_json:
                print_line(f"{repository}:{tag}")
        if not as_json:
            gone = counted(len(answer.results), "tag")
            say(f"{gone} {'would go' if dry_run else 'went'}{'; names stay bound' if answer.results else ''}")
