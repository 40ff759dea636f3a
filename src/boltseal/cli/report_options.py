"""The options of commands that report to a registry, and how the result is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from boltseal.cli.durations import duration_option
from boltseal.cli.output import CommandOutput, say
from boltseal.commands.text import clean, counted
from boltseal.errors import command_code, operators_message
from boltseal.policy.durations import Duration

if TYPE_CHECKING:
    from boltseal.commands.host_reports import SentReport

ReportOption = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="URL",
        show_default=False,
        help="Send the result to this boltseal registry, with the login for it, which needs the right `report`.",
    ),
]
ReportAsOption = Annotated[
    str | None,
    typer.Option(
        "--report-as",
        metavar="NAME",
        show_default=False,
        help="The name of the reported host. Default: report_as of the user's settings, else the host name and a hash of its "
        "machine ID.",
    ),
]
ReportEveryOption = Annotated[
    Duration | None,
    duration_option(
        "--report-every",
        "When the next report is due; a host without one is shown as overdue. Default: 1d.",
        at_least="1m",
        at_most="366d",
    ),
]


def show_report(output: CommandOutput, sent: SentReport) -> None:
    """Print whether a report was sent. It changes neither the outcome nor the exit code of the command."""
    output.report = shown_report(sent)


def shown_report(sent: SentReport) -> dict[str, Any]:
    """Print whether a report was sent, and return that for `--json`."""
    target, error = sent.target, sent.error
    shown = {
        "registry": target.registry,
        "host": target.host,
        "received": sent.received,
        "left_out": sent.left_out,
        "error": None if error is None else {"code": command_code(error), "message": operators_message(error)},
    }
    if error is not None:
        say(f"boltseal: not reported to {target.registry} as host {target.host}: {clean(operators_message(error))}")
        return shown
    say(f"reported to {target.registry} as host {target.host}")
    if sent.left_out:
        say(
            f"boltseal: {counted(sent.left_out, 'image')} did not fit into the report; the registry does not know that they run here"
        )
    return shown
