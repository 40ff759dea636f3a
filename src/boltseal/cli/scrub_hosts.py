"""Output of `boltseal scrub --host`: the results of several hosts, each with its host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boltseal.cli.context import client_context
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress
from boltseal.cli.scrub_text import STATUS_TEXT
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
    lines = [line for row in found.answer.results for line in _row_lines(row, found.host)]
    return [*lines, *(f"could not check: {found.host}: {problem}" for problem in found.answer.problems)]


def _row_lines(row: Mapping[str, Any], host: str) -> Sequence[str]:
    status = STATUS_TEXT.get(row["status"], row["status"])
    level = f" {row['level']}" if row["status"] == "holds" and row.get("level") else ""
    what = f"{row['what']} " if row.get("what") in ("container", "share") else ""
    id_ = f" {row['id']}" if row.get("what") == "image" and row.get("id") and row["id"] not in row["ref"] else ""
    where = f"{row.get('store', '')} on {host}".strip()
    reason = row.get("reason", "").removeprefix(f"{status}: ")
    lines = [f"{status}{level}: {what}{row['ref']}{id_} ({where}): {reason}"]
    for each in row.get("differences", ()):
        layer = f"[layer {each['layer']}]" if each.get("layer") else ""
        at = " ".join(filter(None, (each["kind"], each.get("path"), layer)))
        lines.append(f"  {at}: expected {each.get('expected', '')}; got {each.get('got', '')}")
    return lines
