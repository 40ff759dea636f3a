"""`boltseal tags`: list the tags of a repository, now or at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.history_text import print_proof, time_of
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.table import print_table
from boltseal.commands.registry_access import RegistryOptions, repository_only
from boltseal.commands.tags import PastTags, list_tags, tags_at
from boltseal.commands.timestamps import parse_timestamp
from boltseal.errors import Invalid, quote
from boltseal.ledger.tag_intervals import moment


@takes_registry_options
def tags(
    repo: Annotated[
        str, typer.Argument(metavar="REPOSITORY", show_default=False, help="A repository: localhost:5000/shop/app")
    ],
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", show_default=False, help="At a time, such as 2026-11-24T08:29 (UTC)."),
    ] = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """List the tags of a repository, at any registry.

    With --at: the tags at that time and what each resolved to, from the registry's ledger.
    """
    with CommandOutput("tags", as_json=as_json) as output:
        reference = repository_only(repo)
        if at is not None:
            time_us = parse_timestamp(at)
            if time_us is None:
                raise Invalid(f"--at is {quote(at)}; expected a time such as 2026-11-24T08:29")
            _print_past(output, tags_at(reference, time_us, access))
            return
        listed = list_tags(reference, access)
        for tag in listed.tags:
            status = "settling" if tag in listed.settling else "present"
            output.add(ref=f"{reference.name}:{tag}", status=status, tag=tag)
            output.print(tag)
        if listed.settling:
            output.say(f"settling, not sealed yet: {', '.join(sorted(listed.settling))}")


def _print_past(output: CommandOutput, found: PastTags) -> None:
    output.outcome = found.outcome
    rows = []
    for tag, each in found.entries.items():
        mode = each.entry.extra.get("mode", "")
        output.add(
            ref=f"{found.reference.name}:{tag}",
            status="present",
            tag=tag,
            digest=each.entry.digest,
            since=time_of(each),
            mode=mode or None,
            index=each.index,
            proven=each.index in found.proven.proven,
        )
        rows.append((tag, each.entry.digest, moment(each.entry.time_us), mode))
    if rows and not output.as_json:
        print_table(("TAG", "DIGEST", "SINCE", "MODE"), rows)
    elif not rows:
        output.say(f"{found.reference.name} had no tags then")
    print_proof(output, found.proven)
