"""`boltseal compare`: compare two images, and show what differs."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.explanation_text import contents_lines
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import (
    LOCATION_HELP,
    takes_registry_options,
)
from boltseal.commands.compare import compare_images
from boltseal.commands.registry_access import RegistryOptions
from boltseal.transfer.locations import Location


@takes_registry_options
def compare(
    a: Annotated[str, typer.Argument(metavar="A", show_default=False, help=LOCATION_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False, help=LOCATION_HELP)],
    packages: Annotated[
        bool, typer.Option("--packages", help="Also show packages (by SBOMs, else by the layers) and files.")
    ] = False,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="PLATFORM", show_default=False, help="With --packages: of an index."),
    ] = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Compare two images, and show what differs.

    --packages downloads the layers of both, at most 2 GiB each, and unpacks nothing on the disk. What it could not
    compare is shown, with the reason.

    Exit code 0: the same manifest, or the same config and so the same image ID and files (layers may be compressed
    differently, media types may differ). 1: another image.
    """
    with CommandOutput("compare", as_json=as_json) as output:
        found = compare_images(Location.parse(a), Location.parse(b), access, contents=packages, platform=platform)
        output.outcome = found.outcome
        output.add(
            ref=a,
            other=b,
            status=found.sameness,
            reason="; ".join((found.verdict, *found.reasons)),
            reasons=found.reasons,
            digests=list(found.digests),
            **({} if found.contents is None else {"contents": found.contents.as_json()}),
        )
        output.print(found.verdict)
        for reason in found.reasons:
            output.print(f"  {reason}")
        for which, digest in zip(("A", "B"), found.digests, strict=True):
            output.print(f"  {which}: {digest}")
        if found.contents is not None:
            for line in contents_lines(found.contents):
                output.print(line)
