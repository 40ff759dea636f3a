"""`boltseal keep restore`: give a name on an engine back to an image that was kept."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.engine_options import HostOption
from boltseal.cli.kept_text import kept_fields
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.remote import registry_options
from boltseal.commands.engine_connection import tag_name
from boltseal.commands.keep_restore import restore_kept
from boltseal.commands.text import clean


def keep_restore(
    name: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", show_default=False, help="A name on the engine: localhost:5000/shop/app:latest"
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DIGEST|NUMBER",
            show_default=False,
            help="A number or digest of `boltseal keep ls`. Default: the newest that is not kept as evidence.",
        ),
    ] = "",
    scrub: Annotated[
        bool, typer.Option("--scrub", help="Verify the image on the disk before it gets the name.")
    ] = False,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore an image that `boltseal pull` has kept, without a request to a registry.

    The image that has the name now is kept, so the same command can undo this. Containers are not changed: recreate them.
    """
    with CommandOutput("keep-restore", as_json=as_json) as output:
        done = restore_kept(tag_name(name), to, host, registry_options(), scrub=scrub)
        status = "restored" if done.changed else "unchanged"
        output.add(
            ref=str(done.name),
            status=status,
            reason="",
            digest=None if done.digest is None else str(done.digest),
            image=str(done.image),
            proof=None if done.proof is None else str(done.proof),
            kept=kept_fields(done.kept),
        )
        output.print(clean(f"{status:<9} {done.name.familiar()}  {done.digest or done.image}"))
        if done.kept is not None:
            was = done.kept.digest or done.kept.image
            say(clean(f"kept {was} as {done.kept.keep_name.familiar()}; forward again with the same command"))
