"""Options of the commands that connect to registries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from boltseal.cli.context import client_context
from boltseal.cli.parameters import CommandFunction, expanded
from boltseal.cli.registry_arguments import REGISTRY_OPTIONS, RegistryArguments
from boltseal.client.pull_limit import PullLimit
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import counted

LOCATION_HELP: Final = "An image of a registry, oci:FOLDER:TAG, docker-archive:FILE, or docker-daemon:IMAGE."
SIGNED_BY_HELP: Final = (
    "A signature that the image must have: a public key (PEM); identity=NAME,issuer=URL,trusted_root=FILE; ca=FILE,subject=NAME; "
    "or a table of require. Repeat for several."
)
RemoteRefArgument = Annotated[
    str,
    typer.Argument(metavar="IMAGE", show_default=False, help="An image of any registry: localhost:5000/shop/app:1.4.2"),
]


def takes_registry_options(function: CommandFunction) -> CommandFunction:
    """Declare the options of all commands that connect to registries; the command gets them as `access`."""

    def made(**given: Any) -> Mapping[str, RegistryOptions]:
        return {"access": registry_options(RegistryArguments(**given))}

    return expanded(function, REGISTRY_OPTIONS, made, replace="access")


def registry_options(given: RegistryArguments | None = None) -> RegistryOptions:
    """Return the registry options of a command line; None: of one that has none."""
    given = given or RegistryArguments()
    client = client_context()
    if given.registry_config is not None:
        client = replace(client, paths=client.paths._replace(logins=(given.registry_config,)))
    return RegistryOptions(client, given.plain_http, given.ca_file, given.anonymous, given.strict)


def pull_limit_text(registry: str, limit: PullLimit) -> str:
    """Return what is left of a registry's pull limit, as one line."""
    window = f" in {counted(limit.window_s // 3600, 'hour')}" if limit.window_s >= 3600 else ""
    return f"{registry} says: {limit.remaining} of {limit.limit} pulls left{window}"
