"""`boltseal tags`: every tag of a repository, at any registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, print_line, print_table, say
from boltseal.cli.moment import parse_moment
from boltseal.cli.onhistory import NoHistory, read, tell_proof, when
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    RegistryOptions,
    StrictOption,
    ask_followed,
    repository_only,
)
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.oci.reference import Reference, Tag


class MomentInvalid(Invalid):
    """A time that can't be read."""


def tags(
    repo: Annotated[
        str, typer.Argument(metavar="REPO", show_default=False, help="A repository: localhost:5000/shop/app")
    ],
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", show_default=False, help="As they were then, such as 2026-11-24T08:29 (UTC)."
        ),
    ] = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the tags of a repository, at any registry; with --at what each meant at a time, as the ledger says."""
    with CommandOutput("tags", as_json=as_json) as answer:
        reference = repository_only(repo)
        reach = RegistryOptions(plain_http, ca_file, anonymous, strict)
        if at is not None:
            _then(answer, reach, reference, at)
            return

        async def listed(transport: Transport) -> list[Tag]:
            from boltseal.client.registry_client import RegistryClient

            client = RegistryClient(transport, reference.registry)
            return [tag async for tag in client.tags(reference.repository)]

        for tag in ask_followed(reach, [reference.registry], listed):
            answer.add(ref=f"{reference.name}:{tag}", status="present", tag=tag)
            if not as_json:
                print_line(tag)


def _then(answer: CommandOutput, reach: RegistryOptions, reference: Reference, at: str) -> None:
    time_us = parse_moment(at)
    if time_us is None:
        raise MomentInvalid(f"--at is {quote(at)}; expected a time such as 2026-11-24T08:29")
    found = read(reach, reference, None)
    if isinstance(found, list):
        raise NoHistory(
            f"{reference.registry} keeps no history of whole repositories; ask for one tag's: boltseal history"
        )
    rows = []
    for tag, said in found.history.at(time_us).items():
        name, mode = f"{reference.name}:{tag}", said.entry.extra.get("mode", "")
        answer.add(
            ref=name,
            status="present",
            tag=tag,
            digest=said.entry.digest,
            since=when(said),
            mode=mode or None,
            index=said.index,
            proven=said.index in found.proven,
        )
        rows.append((tag, said.entry.digest, when(said)[:19] + "Z", mode))
    if rows and not answer.as_json:
        print_table(("TAG", "DIGEST", "SINCE", "MODE"), rows)
    elif not answer.as_json:
        say(f"{reference.name} had no tags then")
    tell_proof(answer, found)
