"""`boltseal check`: check whether a tag may be published."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import (
    RemoteRefArgument,
    takes_registry_options,
)
from boltseal.commands.check import CheckRequest, check_tag
from boltseal.commands.registry_access import RegistryOptions


@takes_registry_options
def check(
    ref: RemoteRefArgument,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="DIGEST", show_default=False, help="The digest of the image to publish."),
    ] = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Check whether a tag may be published, by one HEAD request.

    A tag may be published if it is free, or if it already resolves to the image to publish (--digest).

    Exit code 0: the tag may be published; 1: it resolves to another image, or it was deleted and may return only with
    its former digest; 3: it could not be checked.
    """
    with CommandOutput("check", as_json=as_json) as output:
        found = check_tag(CheckRequest.parse(ref, digest), access)
        output.outcome = found.outcome
        output.add(
            ref=str(found.reference),
            status=found.status,
            reason=found.reason,
            digest=found.digest,
            settles=found.settles or None,
        )
        output.print(f"{found.reference}: {found.reason}")
