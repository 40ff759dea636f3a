"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
AllowEmptyOption = Annotated[
    bool,
    typer.Option("--allow-empty", help="Exit with 0, not 3, when there is nothing to check."),
]
PlatformsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        metavar="PLATFORM",
        show_default=False,
        help="A platform that the images are used on, such as linux/amd64; repeatable.",
    ),
]
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
    typer.Option(
        "--data", metavar="FOLDER", show_default=False, help="Data folder. Default: [server] data, else ./data."
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="FILE", show_default=False, help="Also trust this certificate authority (PEM)."),
]
ReasonOption = Annotated[
    str,
    typer.Option("--reason", metavar="TEXT", show_default=False, help="Why; recorded permanently with the change."),
]
RefArgument = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", show_default=False, help="An image of this registry: localhost:5000/shop/app:1.4.2"
    ),
]
ObservationsOption = Annotated[
    bool,
    typer.Option("--observations", help="The log of observations (what upstream tags resolved to) instead."),
]
AttestationOption = Annotated[
    bool,
    typer.Option("--attestation", help="The key that signs receipts as statements for other tools (cosign) instead."),
]
BackupArgument = Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="The backup's folder.")]
