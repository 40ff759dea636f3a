"""Output of what a check of the data folder found."""

from __future__ import annotations

from collections.abc import Iterable

from boltseal.cli.output import CommandOutput
from boltseal.server.storage.findings import Finding


def add_findings(output: CommandOutput, findings: Iterable[Finding]) -> None:
    """Add and print each finding."""
    for finding in findings:
        output.add(ref=finding.what, status=finding.status, reason=finding.problem)
        output.print(f"{finding.what}: {finding.problem}")
