"""`boltseal collect`: remove bytes that nothing names, and uploads that nobody goes on with."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.answer import CommandOutput, counted, print_line, say
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.cli.progress import in_words


def collect(
    config: ConfigOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove bytes that nothing names and that are older than a day. Works beside a running server.

    Refused pushes and deletes leave such bytes; so do uploads that were given up. Mirrored images that an [[upstream]]'s
    keep_for or keep_bytes keeps no longer are let go of first; their bytes follow after an hour.
    """
    with CommandOutput("collect", as_json=as_json) as answer:
        settings = settings_of(config, data=data)

        from boltseal.server.store_factory import collect_store

        status = "would be removed" if dry_run else "removed"
        total = 0
        for item in collect_store(settings, dry_run=dry_run):
            total += item.size_bytes
            answer.add(ref=item.name, what=item.what, status=status, reason=item.reason, size=item.size_bytes)
            if not as_json:
                print_line(f"{item.what} {item.name} ({in_words(item.size_bytes)}): {item.reason}")
        if not as_json:
            count = len(answer.results)
            say(f"{counted(count, 'item')} {status}, {in_words(total)}" if count else "nothing to remove")
