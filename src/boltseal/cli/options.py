"""The options that several verbs have, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from boltseal.server.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default=False,
        help="Configuration file. Default: $BOLTSEAL_CONFIG, else /etc/boltseal/boltseal.toml if it exists.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", show_default=False, help="Data folder. Default: [server] data, else ./data."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]
AllowEmptyOption = Annotated[
    bool,
    typer.Option("--allow-empty", help="Exit with 0, not 3, when there is nothing to check."),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", show_default=False, help="Why; recorded for ever beside the change.")
]
PlatformsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        metavar="PLATFORM",
        show_default=False,
        help="A machine that the images are used on: linux/amd64. May be repeated.",
    ),
]


def settings_of(config: Path | None, **server: Any) -> Settings:
    """Load the settings, the given flags of `[server]` over them. ConfigInvalid."""
    from boltseal.server.configuration import load

    return load(config, flags_of(**server))


def flags_of(**server: Any) -> dict[str, Any]:
    """The given flags of `[server]` as a layer of settings."""
    return {"server": {name: value for name, value in server.items() if value is not None}}
