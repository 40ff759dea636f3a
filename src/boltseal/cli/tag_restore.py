"""`boltseal tag restore`: move a mutable tag back to an earlier digest."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import JsonOption, ReasonOption, RefArgument
from boltseal.cli.output import CommandOutput
from boltseal.cli.tag_target import TagTarget, takes_tag_target


@takes_tag_target
def tag_restore(
    ref: RefArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DIGEST|NUMBER|TIME",
            show_default=False,
            help="A former digest, the index of its entry, or a time such as 2026-11-24T08:29 (UTC).",
        ),
    ],
    reason: ReasonOption,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Move a mutable tag back to a digest that its history has.

    Recorded like every move; a sealed tag is refused. The present digest stays pullable. Works while the server runs.
    """
    with CommandOutput("tag-restore", as_json=as_json) as output:
        restored = target.changes("tag restore").restore(ref, to, reason)
        reference = restored.reference
        output.add(
            ref=str(reference),
            status="restored" if restored.changed else "unchanged",
            digest=str(restored.digest),
            was=str(restored.was) if restored.was is not None else None,
            entry=restored.entry_index,
        )
        output.print(f"{reference}@{restored.digest}")
        state = "resolved to this already"
        if restored.changed:
            before = "nothing" if restored.was is None else f"{restored.was}, which stays pullable"
            state = f"resolves to this again; before: {before}"
        output.say(f"{reference} {state} (ledger entry {restored.entry_index})")
