"""Options of the commands that connect to registries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.context import client_context
from boltseal.cli.options import CaFileOption
from boltseal.cli.parameters import CommandFunction, expanded
from boltseal.client.pull_limit import PullLimit
from boltseal.commands.registry_access import RegistryOptions
from boltseal.files.named_files import require_file

LOCATION_HELP: Final = "An image of a registry, oci:FOLDER:TAG, docker-archive:FILE, or docker-daemon:IMAGE."
RemoteRefArgument = Annotated[
    str,
    typer.Argument(metavar="IMAGE", show_default=False, help="An image of any registry: localhost:5000/shop/app:1.4.2"),
]
PlainHttpOption = Annotated[
    bool, typer.Option("--plain-http", help="Connect without TLS. Loopback addresses need no flag.")
]
RegistryConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--registry-config",
        metavar="FILE",
        show_default=False,
        help="Read logins from this file, in the form of Docker's config.json, and from no other.",
    ),
]
AnonymousOption = Annotated[bool, typer.Option("--anonymous", help="Ignore stored logins.")]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse a registry whose ledger key is not pinned by `ledger trust`.",
    ),
]

_DECLARED: Final = {
    "plain_http": (PlainHttpOption, False),
    "ca_file": (CaFileOption, None),
    "registry_config": (RegistryConfigOption, None),
    "anonymous": (AnonymousOption, False),
    "strict": (StrictOption, False),
}


def takes_registry_options(function: CommandFunction) -> CommandFunction:
    """Declare the options of all commands that connect to registries; the command gets them as `access`."""
    return expanded(function, _DECLARED, lambda **given: {"access": registry_options(**given)}, replace="access")


def registry_options(
    plain_http: bool = False,
    ca_file: Path | None = None,
    registry_config: Path | None = None,
    anonymous: bool = False,
    strict: bool = False,
) -> RegistryOptions:
    """Return the registry options of a command line. Raises: FileMissing."""
    for file in (ca_file, registry_config):
        if file is not None:
            require_file(file)
    client = client_context()
    if registry_config is not None:
        client = replace(client, paths=client.paths._replace(logins=(registry_config,)))
    return RegistryOptions(client, plain_http, ca_file, anonymous, strict)


def pull_limit_text(registry: str, limit: PullLimit) -> str:
    """Return what is left of a registry's pull limit, as one line."""
    window = f" in {limit.window_s // 3600} hours" if limit.window_s >= 3600 else ""
    return f"{registry} says: {limit.remaining} of {limit.limit} pulls left{window}"
