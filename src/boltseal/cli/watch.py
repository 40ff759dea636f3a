"""`boltseal watch`: remember what tags of other registries resolve to, and report those that moved."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.durations import duration_option
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.tag_watch import TagLook, WatchStatus
from boltseal.commands.text import clean, counted
from boltseal.commands.watch import WatchReport, WatchRequest, watch_once
from boltseal.errors import MAX_PATH, Invalid, quote
from boltseal.ledger.entry import format_time
from boltseal.policy.durations import Duration

_COUNTED: Final[dict[str, str]] = {WatchStatus.FIRST: "seen for the first time", WatchStatus.SAME: "unchanged"}
SPREAD: Final = 0.05
"""How much earlier or later a look may be, so that not all machines ask in the same second."""


@takes_registry_options
def watch(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", show_default=False, help="Tags of any registry: node:16.13"),
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option("--lock", metavar="FILE", show_default=False, help="Every tag of a lock: boltseal.lock"),
    ] = None,
    compose: Annotated[
        Path | None,
        typer.Option("--compose", metavar="FILE", show_default=False, help="Every tag that a Compose file names."),
    ] = None,
    every: Annotated[
        Duration | None,
        duration_option("--every", "Repeat, such as every 6h; default: once.", at_least="1m"),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Resolve each tag once and exit. This is the default.")] = False,
    extends: Annotated[
        str | None,
        typer.Option(
            "--extends",
            metavar="HASH",
            show_default=False,
            help="Check that the log extends the one whose last hash was HASH.",
        ),
    ] = None,
    allow_empty: AllowEmptyOption = False,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Look at tags of other registries, remember what they resolve to, and report those that moved.

    One HEAD request for each tag, which no registry counts as a pull. A tag that looks like a release (1.4.2, a date, a
    hash) is an alarm if it resolves to another image than before, or is gone. Moves of other tags are recorded in their
    history: `boltseal history`. Made for cron: unchanged tags are not printed.

    Exit code 1: an alarm, or no such tag; 3: one could not be checked, or there was none.
    """
    if once and every is not None:
        raise Invalid("--once and --every exclude each other")
    request = WatchRequest(tuple(refs or ()), lock, compose, extends, tuple(allow or ()))
    while True:
        try:
            with CommandOutput("watch", as_json=as_json) as output:
                with Progress() as progress:
                    report = watch_once(request, access.renewed(), lambda look: _print_look(output, look), progress)
                _print(output, report)
                if report.empty and not allow_empty:
                    files = " and ".join(quote(str(file), MAX_PATH) for file in (lock, compose) if file is not None)
                    output.nothing_to_check(f"found 0 tags in {files}", "check --lock and --compose")
        except typer.Exit:
            if every is None:
                raise
        if every is None:
            return
        sys.stdout.flush()
        time.sleep(every.seconds * random.uniform(1 - SPREAD, 1 + SPREAD))  # noqa: S311 - no secret: spreads the load


def _print(output: CommandOutput, report: WatchReport) -> None:
    output.outcome = report.outcome
    if report.rewritten:
        output.add(ref=str(report.log), status="rewritten", reason=f"it does not extend {report.rewritten}")
        say(
            f"boltseal: {report.log} does not extend {report.rewritten}: lines were changed or removed at its end; no tag "
            "was resolved"
        )
        return
    for name, reason in report.left_out.items():
        _print_unknown(output, name, reason)
    output.add(ref=str(report.log), status="log", reason="", head=report.head)
    counts = ", ".join(f"{number} {_COUNTED.get(status, status)}" for status, number in sorted(report.counts.items()))
    say(f"{counted(sum(report.counts.values()), 'tag')}{f': {counts}' if counts else ''}; log {report.head}")


def _print_look(output: CommandOutput, look: TagLook) -> None:
    if look.error is not None:
        _print_unknown(output, str(look.reference), look.error.message)
        return
    if look.status in (WatchStatus.SAME, WatchStatus.FIRST) and not output.as_json:
        return  # there may be ten thousand, and nothing would be printed
    saw = look.saw
    reason = _reason(look)
    output.add(
        ref=str(look.reference),
        status=look.status,
        reason=reason,
        alarm=look.alarm,
        release=look.release,
        digest=None if saw is None or saw.now.digest is None else str(saw.now.digest),
        was=None if saw is None or saw.last is None else str(saw.last),
        first_seen=None if saw is None else format_time(saw.now.first_seen_us),
        line=None if saw is None else saw.now.line,
    )
    if not output.as_json and reason:
        print_line(clean(reason))


def _reason(look: TagLook) -> str:
    match look.status:
        case WatchStatus.ABSENT:
            return f"{look.reference}: there is no such tag, and none was seen before"
        case WatchStatus.BACK:
            return f"{look.reference} is back, and resolves to the same image as before"
        case _ if look.changed:
            return look.event().text
        case WatchStatus.GONE:
            return f"{look.reference} is still gone"
        case _:
            return ""


def _print_unknown(output: CommandOutput, name: str, reason: str) -> None:
    output.add(ref=name, status="unknown", reason=reason)
    say(clean(f"boltseal: {name}: could not check: {reason}"))
