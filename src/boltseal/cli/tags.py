"""`boltseal tags`: every tag of a repository, at any registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import Answer, print_line
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    Reach,
    StrictOption,
    ask_followed,
    repository_only,
)

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.oci.reference import Tag


def tags(
    repo: Annotated[
        str, typer.Argument(metavar="REPO", show_default=False, help="A repository: localhost:5000/shop/app")
    ],
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the tags of a repository, at any registry."""
    with Answer("tags", as_json=as_json) as answer:
        reference = repository_only(repo)

        async def listed(transport: Transport) -> list[Tag]:
            from boltseal.client.registry import RegistryClient

            client = RegistryClient(transport, reference.registry)
            return [tag async for tag in client.tags(reference.repository)]

        for tag in ask_followed(Reach(plain_http, ca_file, anonymous, strict), [reference.registry], listed):
            answer.add(ref=f"{reference.name}:{tag}", status="present", tag=tag)
            if not as_json:
                print_line(tag)
