"""`boltseal compare`: compare two images, and show what differs."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import (
    LOCATION_HELP,
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    StrictOption,
    registry_options,
)
from boltseal.commands.compare import compare_images
from boltseal.transfer.locations import Location


def compare(
    a: Annotated[str, typer.Argument(metavar="A", show_default=False, help=LOCATION_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False, help=LOCATION_HELP)],
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two images, and show what differs.

    Exit code 0: the same manifest, or the same config and so the same image ID and files (layers may be compressed
    differently, media types may differ). 1: another image.
    """
    with CommandOutput("compare", as_json=as_json) as output:
        options = registry_options(plain_http, ca_file, anonymous, strict)
        found = compare_images(Location.parse(a), Location.parse(b), options)
        output.outcome = found.outcome
        output.add(
            ref=a,
            other=b,
            status=found.sameness,
            reason="; ".join((found.verdict, *found.reasons)),
            reasons=found.reasons,
            digests=list(found.digests),
        )
        output.print(found.verdict)
        for reason in found.reasons:
            output.print(f"  {reason}")
        for letter, digest in zip("AB", found.digests, strict=True):
            output.print(f"  {letter}: {digest}")
