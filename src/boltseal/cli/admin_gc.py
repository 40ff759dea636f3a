"""`boltseal admin gc`: delete unreferenced blobs and abandoned uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import typer

from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed, on_terminal
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.tag_target import TagTarget, takes_tag_target
from boltseal.commands.collection import CollectedItem
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean, counted

FullOption = Annotated[
    bool,
    typer.Option(
        "--full", help="Compare everything that is stored with the database; continues a killed run. Not with --server."
    ),
]


@takes_tag_target
def admin_gc(
    full: FullOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    *,
    target: TagTarget,
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

    With --server the registry does the work, a part for each request, and records each part in its audit log.
    """
    with CommandOutput("admin-gc", as_json=as_json) as output:
        collection = target.collection("admin gc")
        with Progress() as progress:
            if not dry_run and not yes and on_terminal():
                planned = collection.collect(dry_run=True, full=full, progress=progress)
                found = [_line(item) for item in planned if item.status != "kept"]
                if found and not confirmed(f"Delete {counted(len(found), 'item')}?", found, yes=yes):
                    output.outcome = Outcome.DIFFERS
                    output.say("nothing was deleted")
                    return
            _show(output, collection.collect(dry_run=dry_run, full=full, progress=progress), dry_run=dry_run)


def _line(item: CollectedItem) -> str:
    return clean(f"{item.what} {item.name} ({size_text(item.size_bytes)}): {item.reason}")


def _show(output: CommandOutput, items: Iterable[CollectedItem], *, dry_run: bool) -> None:
    """Print each item as it is found or deleted, and the sums. An item that failed makes the outcome unknown."""
    total, counts = 0, Counter[str]()
    for item in items:
        total += item.freed_bytes
        done = item.status in ("removed", "hidden")
        status = f"would be {item.status}" if done and dry_run else item.status
        counts[status] += 1
        output.add(ref=item.name, what=item.what, status=status, reason=item.reason, size=item.size_bytes)
        output.print(_line(item))
        if item.status == "failed":
            output.outcome = Outcome.UNKNOWN
    parts = [f"{counted(count, 'item')} {status}" for status, count in counts.items()]
    output.say(f"{', '.join(parts)}, {size_text(total)}" if parts else "nothing to remove")
