"""`boltseal admin gc`: delete unreferenced blobs and abandoned uploads."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import size_text
from boltseal.cli.server_options import settings_of
from boltseal.commands.text import counted
from boltseal.server.store_factory import collect_store


def admin_gc(
    config: ConfigOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete unreferenced blobs that are older than a day. Works while the server runs.

    Refused pushes, deletes and abandoned uploads leave such blobs. Mirrored images that an [[upstream]]'s keep_for or
    keep_bytes no longer keeps are released first; their blobs follow after an hour.
    """
    with CommandOutput("admin-gc", as_json=as_json) as output:
        settings = settings_of(config, data=data)
        status = "would be removed" if dry_run else "removed"
        total = 0
        for item in collect_store(settings, dry_run=dry_run):
            total += item.size_bytes
            output.add(ref=item.name, what=item.what, status=status, reason=item.reason, size=item.size_bytes)
            output.print(f"{item.what} {item.name} ({size_text(item.size_bytes)}): {item.reason}")
        count = len(output.results)
        output.say(f"{counted(count, 'item')} {status}, {size_text(total)}" if count else "nothing to remove")
