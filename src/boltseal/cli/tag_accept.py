"""`boltseal tag accept`: serve an upstream tag's new digest that is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.cli.tag_target import TagTarget, takes_tag_target
from boltseal.commands.outcome import Outcome
from boltseal.commands.tag_changes import HeldResult
from boltseal.ledger.entry import format_time
from boltseal.ledger.tag_intervals import moment


@takes_tag_target
def tag_accept(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGE", show_default=False, help="A tag of a mirrored registry: docker.io/library/node:16.13"
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded permanently.")] = "",
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Serve an upstream tag's new digest that a rule (on_move, first_seen) holds back. Works while the server runs.

    With a digest (IMAGE@sha256:...) only that one is accepted. Without IMAGE it lists what is held back.

    Exit code 1: nothing is held back of that tag, or another digest.
    """
    with CommandOutput("tag-accept", as_json=as_json) as output:
        changes = target.changes("tag accept")
        if ref is None:
            _list(output, changes.held())
            return
        done = changes.accept(ref, reason)
        output.add(
            ref=done.tag,
            status="accepted",
            reason=reason.strip(),
            digest=str(done.digest),
            was=None if done.was is None else str(done.was),
            entry=done.entry_index,
        )
        output.print(f"{done.tag}@{done.digest}")
        output.say(f"{done.tag} is served as {done.digest} from now on (observation {done.entry_index})")


def _list(output: CommandOutput, tags: Sequence[HeldResult]) -> None:
    rows = []
    for each in tags:
        was = None if each.serves is None else str(each.serves)
        output.outcome = Outcome.DIFFERS
        output.add(
            ref=each.tag, status="held", reason="", digest=str(each.digest), was=was, time=format_time(each.since_us)
        )
        rows.append((each.tag, str(each.digest), was or "nothing", moment(each.since_us)))
    if rows and not output.as_json:
        print_table(("TAG", "HELD", "SERVED", "SINCE"), rows)
    elif not rows:
        output.say("nothing is held back")
