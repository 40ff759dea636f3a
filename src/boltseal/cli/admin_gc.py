"""`boltseal admin gc`: delete unreferenced blobs and abandoned uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import typer

from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed, on_terminal
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.server_options import store_settings
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.server.storage.garbage_collection import FAILED, HIDDEN_BLOB, KEPT, GarbageItem
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

    A running server does the same once an hour. A blob is hidden from clients a day after its last image was deleted,
    or after a push that was not completed. Unless a push needs it, it leaves its repository 65 minutes later, and its
    bytes are deleted an hour after that if no other repository has it. A run first deletes the mirrored images that
    keep_for or keep_bytes of their [[upstream]] no longer keeps, except those that a host runs by its report. On a terminal the command lists everything and asks,
    unless --yes is given.

    Deletes and uploads record what to look at, so a run costs what has changed. With --full it compares everything
    that is stored with the database, and continues there if it was killed less than a day ago.
    """
    with CommandOutput("admin-gc", as_json=as_json) as output:
        settings = store_settings(config, data)
        if not dry_run and not yes and on_terminal():
            found = [_line(item) for item in collect_store(settings, dry_run=True, full=full) if item.what != KEPT]
            if found and not confirmed(f"Delete {counted(len(found), 'item')}?", found, yes=yes):
                output.outcome = Outcome.DIFFERS
                output.say("nothing was deleted")
                return
        with Progress() as progress:
            _show(output, collect_store(settings, dry_run=dry_run, full=full, progress=progress), dry_run=dry_run)


def _line(item: GarbageItem) -> str:
    return f"{item.what} {item.name} ({size_text(item.size_bytes)}): {item.reason}"


def _status(item: GarbageItem, *, dry_run: bool) -> str:
    if item.what in (FAILED, KEPT):
        return item.what
    done = "hidden" if item.what == HIDDEN_BLOB else "removed"
    return f"would be {done}" if dry_run else done


def _show(output: CommandOutput, items: Iterable[GarbageItem], *, dry_run: bool) -> None:
    """Print each item as it is found or deleted, and the sums. An item that failed makes the outcome unknown."""
    total, counts = 0, Counter[str]()
    for item in items:
        total += item.freed_bytes
        status = _status(item, dry_run=dry_run)
        counts[status] += 1
        output.add(ref=item.name, what=item.what, status=status, reason=item.reason, size=item.size_bytes)
        output.print(_line(item))
        if item.what == FAILED:
            output.outcome = Outcome.UNKNOWN
    parts = [f"{counted(count, 'item')} {status}" for status, count in counts.items()]
    output.say(f"{', '.join(parts)}, {size_text(total)}" if parts else "nothing to remove")
