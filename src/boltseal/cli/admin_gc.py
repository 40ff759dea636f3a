"""`boltseal admin gc`: delete unreferenced blobs and abandoned uploads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed, on_terminal
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import settings_of
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.server.storage.garbage_collection import GarbageItem
from boltseal.server.store_factory import collect_store

FullOption = Annotated[
    bool, typer.Option("--full", help="Compare everything that is stored with the database; continues a killed run.")
]


def admin_gc(
    full: FullOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete unreferenced blobs that are older than a day. Works while the server runs.

    A blob leaves its repository a day after its last image was deleted, or after a push that was not completed. Its
    bytes are deleted an hour later if no other repository has it. A running server does the same once an hour. It first
    releases mirrored images that keep_for or keep_bytes of their [[upstream]] no longer keeps. On a terminal it
    lists everything and asks, unless --yes is given.

    Deletes and uploads record what to look at, so a run costs what has changed. With --full it compares everything
    that is stored with the database, and continues there if it was killed less than a day ago.
    """
    with CommandOutput("admin-gc", as_json=as_json) as output:
        settings = settings_of(config, data=data)
        if not dry_run and not yes and on_terminal():
            found = [_line(item) for item in collect_store(settings, dry_run=True, full=full)]
            if found and not confirmed(f"Delete {counted(len(found), 'item')}?", found, yes=yes):
                output.outcome = Outcome.DIFFERS
                output.say("nothing was deleted")
                return
        with Progress() as progress:
            items = collect_store(settings, dry_run=dry_run, full=full, progress=progress)
            _show(output, items, "would be removed" if dry_run else "removed")


def _line(item: GarbageItem) -> str:
    return f"{item.what} {item.name} ({size_text(item.size_bytes)}): {item.reason}"


def _show(output: CommandOutput, items: Iterable[GarbageItem], status: str) -> None:
    """Print each item as it is found or deleted, and the sum."""
    total = 0
    for item in items:
        total += item.freed_bytes
        output.add(ref=item.name, what=item.what, status=status, reason=item.reason, size=item.size_bytes)
        output.print(_line(item))
    count = len(output.results)
    output.say(f"{counted(count, 'item')} {status}, {size_text(total)}" if count else "nothing to remove")
