"""Declares the options of the commands that connect to registries, without importing the client of registries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.options import CaFileOption
from boltseal.cli.parameters import CommandFunction, expanded
from boltseal.files.named_files import require_file

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

REGISTRY_OPTIONS: Final = {
    "plain_http": (PlainHttpOption, False),
    "ca_file": (CaFileOption, None),
    "registry_config": (RegistryConfigOption, None),
    "anonymous": (AnonymousOption, False),
    "strict": (StrictOption, False),
}


@dataclass(frozen=True, slots=True)
class RegistryArguments:
    """The registry options of a command line, for a command that may need no registry. Raises: FileMissing."""

    plain_http: bool = False
    ca_file: Path | None = None
    registry_config: Path | None = None
    anonymous: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        for file in (self.ca_file, self.registry_config):
            if file is not None:
                require_file(file)


def takes_registry_arguments(function: CommandFunction) -> CommandFunction:
    """Declare the registry options of a command that may need no registry; the command gets them as `access`."""
    return expanded(
        function, REGISTRY_OPTIONS, lambda **given: {"access": RegistryArguments(**given)}, replace="access"
    )
