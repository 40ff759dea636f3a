"""Output of `boltseal scrub --host`: the results of several hosts, each with its host."""

from __future__ import annotations

from collections.abc import Sequence

from boltseal.cli.context import client_context
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress
from boltseal.cli.scrub_text import difference_line, status_line
from boltseal.commands.outcome import Outcome
from boltseal.commands.scrub_hosts import HostResult, scrub_hosts
from boltseal.commands.scrub_hosts_request import ScrubHostsRequest


def print_hosts(output: CommandOutput, request: ScrubHostsRequest) -> None:
    """Verify images on other hosts, print the results, and set the outcome."""
    with Progress() as progress:
        results = scrub_hosts(request, client_context(), lambda done, total: progress("hosts", done, total))
    found = results.hosts
    for each in found:
        _add(output, each)
    for each in found:
        for line in _lines(each):
            output.print(line)
    held = sum(each.answer.outcome is Outcome.HOLDS for each in found)
    output.print(f"{held} of {len(found)} hosts hold")
    if results.problem:
        output.add(ref="", status="unknown", reason=results.problem)
        output.outcome = output.outcome.worse(Outcome.UNKNOWN)
        say(f"boltseal: {results.problem}")


def _add(output: CommandOutput, found: HostResult) -> None:
    for row in found.answer.results:
        output.add(**{"reason": "", **row, "host": found.host})
    for problem in found.answer.problems:
        output.add(ref=found.host, status="unknown", reason=problem, what="host", host=found.host)
    output.outcome = output.outcome.worse(found.answer.outcome)


def _lines(found: HostResult) -> Sequence[str]:
    lines = []
    for row in found.answer.results:
        lines.append(status_line(row, f"{row.get('store', '')} on {found.host}".strip()))
        lines += map(difference_line, row.get("differences", ()))
    return [*lines, *(f"could not check: {found.host}: {problem}" for problem in found.answer.problems)]
