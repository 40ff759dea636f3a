"""Options of the commands that connect to registries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.context import client_context
from boltseal.client.pull_limit import PullLimit
from boltseal.commands.registry_access import RegistryOptions

LOCATION_HELP: Final = "A reference, oci:DIR:TAG, docker-archive:FILE, or docker-daemon:REF."
RemoteRefArgument = Annotated[
    str,
    typer.Argument(metavar="REF", show_default=False, help="An image of any registry: localhost:5000/shop/app:1.4.2"),
]
PlainHttpOption = Annotated[
    bool, typer.Option("--plain-http", help="Connect without TLS. Loopback addresses need no flag.")
]
CaFileOption = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="FILE", show_default=False, help="Also trust this certificate authority (PEM)."),
]
AnonymousOption = Annotated[bool, typer.Option("--anonymous", help="Ignore stored logins.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse a registry whose ledger key is not pinned by `boltseal ledger trust`.")
]


def registry_options(
    plain_http: bool = False, ca_file: Path | None = None, anonymous: bool = False, strict: bool = False
) -> RegistryOptions:
    """Return the registry options of a command line."""
    return RegistryOptions(client_context(), plain_http, ca_file, anonymous, strict)


def pull_limit_text(registry: str, limit: PullLimit) -> str:
    """Return what is left of a registry's pull limit, as one line."""
    window = f" in {limit.window_s // 3600} hours" if limit.window_s >= 3600 else ""
    return f"{registry} says: {limit.remaining} of {limit.limit} pulls left{window}"
