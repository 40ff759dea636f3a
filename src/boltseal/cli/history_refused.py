"""The output of `boltseal history --refused`: which pushes a registry refused."""

from __future__ import annotations

from collections.abc import Sequence

from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.commands.refused_pushes import RefusedPush
from boltseal.commands.text import clean
from boltseal.oci.reference import Reference
from boltseal.policy.pipeline_claims import pipeline_text, shown_pipeline


def print_refused(output: CommandOutput, reference: Reference, refused: Sequence[RefusedPush]) -> None:
    """Print refused pushes, the newest first."""
    for each in refused:
        output.add(
            ref=f"{reference.name}:{each.tag}" if each.tag else reference.name,
            status="refused",
            reason=each.reason,
            first=each.first,
            time=each.last,
            times=each.times,
            pushed=each.pushed,
            digest=each.digest,
            by=each.by,
            address=each.address,
            free=each.free,
            **({"pipeline": pipeline} if (pipeline := shown_pipeline(each.extra)) else {}),
        )
    if not refused:
        output.say(f"no refused pushes to {reference} are recorded")
    elif not output.as_json:
        columns = ("LAST", "TIMES", "TAG", "REASON", "PUSHED", "RESOLVES TO", "BY", "FROM", "FREE")
        print_table(columns, [_row(each) for each in refused], columns[:6])


def _row(refused: RefusedPush) -> tuple[str, ...]:
    return tuple(
        clean(text)
        for text in (
            refused.last,
            str(refused.times),
            refused.tag or "",
            refused.reason,
            refused.pushed or "",
            refused.digest or "",
            pipeline_text(refused.extra) or refused.by,
            refused.address or "",
            " ".join(refused.free),
        )
    )
