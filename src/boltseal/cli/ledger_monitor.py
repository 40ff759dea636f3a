"""`boltseal ledger monitor`: follow a ledger from outside, entry by entry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.durations import duration_option
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.remote import takes_registry_options
from boltseal.client.ledger_monitor.monitor import SHARES, MonitorReport
from boltseal.commands.ledger_monitor import MonitorRequest, monitor_ledger, monitor_outcome
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ledger_notices
from boltseal.commands.text import clean, counted
from boltseal.policy.durations import Duration


@takes_registry_options
def ledger_monitor(
    url: Annotated[
        str, typer.Argument(metavar="URL", show_default=False, help="A registry: https://registry.example.com")
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", show_default=False, help="The ledger's key, from its operator."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FOLDER", show_default=False, help="Where progress is kept. Default: the user's state."
        ),
    ] = None,
    tags: Annotated[
        bool, typer.Option("--tags", help="Compare every tag with the ledger now; default: all of them within 24 runs.")
    ] = False,
    every: Annotated[
        Duration | None,
        duration_option("--every", "Repeat, such as every 6h; default: once.", at_least="1s"),
    ] = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Follow a ledger from outside: check every entry, the tree over them, and the registry's answers.

    Continues where the last run stopped. Each run compares the tags that changed last and a share of all tags with the ledger; 24
    runs compare every tag. Needs the right `ledger` there, and the right to pull what it compares. Prints one line, for cron.

    Exit code 1: a rule is broken, or the ledger is not a continuation of the one seen before; 3: could not be checked.
    """
    with CommandOutput("ledger-monitor", as_json=as_json) as output:
        request = MonitorRequest(url, key, state, every_tag=tags)
        while True:
            _print(output, url, monitor_ledger(request, access.renewed()))
            if every is None or output.outcome is Outcome.DIFFERS:
                return
            output.outcome = Outcome.HOLDS
            output.results.clear()
            time.sleep(every.seconds)


def _print(output: CommandOutput, url: str, report: MonitorReport) -> None:
    for line in ledger_notices(report.followed):
        say(line)
    for problem in report.problems:
        output.add(ref=url, status="broken", reason=problem)
        say(f"boltseal: {clean(problem)}")
    for reason in report.unchecked:
        output.add(ref=url, status="unknown", reason=reason)
        say(f"boltseal: could not check: {clean(reason)}")
    output.outcome = monitor_outcome(report)
    status = "broken" if output.outcome is Outcome.DIFFERS else str(output.outcome)
    output.add(
        ref=url,
        status=status,
        reason="",
        size=report.size,
        read=report.read,
        names=report.names,
        compared=report.compared,
        given=report.followed.given,
        share=report.share,
        shares=SHARES,
    )
    output.print(
        f"{url}: {counted(report.size, 'entry', 'entries')}, {report.read} of them new, {counted(report.names, 'name')}, "
        f"{counted(report.compared, 'tag')} compared: {status}"
    )
