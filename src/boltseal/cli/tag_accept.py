"""`boltseal tag accept`: serve an upstream tag's new digest that is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.cli.table import print_table
from boltseal.commands.outcome import Outcome
from boltseal.ledger.entry import format_time
from boltseal.ledger.tag_intervals import moment
from boltseal.server.commands.tag_accept import accept_tag, held_tags, upstream_tag
from boltseal.server.registry.observations import HeldTag


def tag_accept(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGE", show_default=False, help="A tag of a mirrored registry: docker.io/library/node:16.13"
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded permanently.")] = "",
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve an upstream tag's new digest that a rule (on_move, first_seen) holds back. Works while the server runs.

    With a digest (IMAGE@sha256:...) only that one is accepted. Without IMAGE it lists what is held back.

    Exit code 1: nothing is held back of that tag, or another digest.
    """
    with CommandOutput("tag-accept", as_json=as_json) as output:
        settings = store_settings(config, data)
        if ref is None:
            _list(output, held_tags(settings))
            return
        done = accept_tag(settings, upstream_tag(ref, settings), reason)
        output.add(
            ref=str(done.tag),
            status="accepted",
            reason=reason.strip(),
            digest=str(done.digest),
            was=None if done.was is None else str(done.was),
            entry=done.entry,
        )
        output.print(f"{done.tag}@{done.digest}")
        output.say(f"{done.tag} is served as {done.digest} from now on (observation {done.entry})")


def _list(output: CommandOutput, tags: Sequence[HeldTag]) -> None:
    rows = []
    for each in tags:
        held, served = each.known.held, each.known.serves
        if held is None:
            continue
        name, since = f"{each.repository}:{each.tag}", format_time(each.known.held_us or 0)
        was = None if served is None else str(served.digest)
        output.outcome = Outcome.DIFFERS
        output.add(ref=name, status="held", reason="", digest=str(held.digest), was=was, time=since)
        rows.append((name, str(held.digest), was or "nothing", moment(each.known.held_us or 0)))
    if rows and not output.as_json:
        print_table(("TAG", "HELD", "SERVED", "SINCE"), rows)
    elif not rows:
        output.say("nothing is held back")
