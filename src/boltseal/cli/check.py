"""`boltseal check`: check whether a tag may be published."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    RemoteRefArgument,
    StrictOption,
    registry_options,
)
from boltseal.commands.check import CheckRequest, check_tag


def check(
    ref: RemoteRefArgument,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="DIGEST", show_default=False, help="The digest of the image to publish."),
    ] = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check whether a tag may be published, by one HEAD request.

    It may if it is free, or resolves to the image to publish already (--digest).

    Exit code 0: it may; 1: it resolves to another image, or was deleted and is bound to another; 3: could not be checked.
    """
    with CommandOutput("check", as_json=as_json) as output:
        found = check_tag(CheckRequest.parse(ref, digest), registry_options(plain_http, ca_file, anonymous, strict))
        output.outcome = found.outcome
        output.add(ref=str(found.reference), status=found.status, reason=found.reason, digest=found.digest)
        output.print(f"{found.reference}: {found.reason}")
