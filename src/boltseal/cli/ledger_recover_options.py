"""Options of `boltseal ledger recover`."""

from __future__ import annotations

from typing import Annotated

import typer

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="URL|FOLDER",
        show_default=False,
        help="A registry that has the entries, another data folder, or a tree of tiles.",
    ),
]
AcceptLossOption = Annotated[
    bool,
    typer.Option("--accept-loss", help="Continue without the missing entries, under a new origin and key."),
]
RestoreTagsOption = Annotated[
    bool, typer.Option("--restore-tags", help="Set tags that differ from the ledger to what its entries say.")
]
ClockOption = Annotated[
    bool,
    typer.Option("--clock", help="Confirm that this machine's clock is right; entries from the future stay."),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; recorded permanently. Required with --accept-loss.")
]
