"""Options of `boltseal lock`."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.commands.emit_lock import Emit

UpdateOption = Annotated[
    bool,
    typer.Option("--update", help="Lock what the tags resolve to now: all of them, or the references given."),
]
CountPullsOption = Annotated[
    bool,
    typer.Option("--count-pulls", help="Read platforms and image IDs on Docker Hub too, where that counts as pulls."),
]
EmitOption = Annotated[
    Emit | None,
    typer.Option("--emit", show_default=False, help="Print a file with the locked digests; contact no registry."),
]
MergeOption = Annotated[
    bool,
    typer.Option(
        "--merge", help="Merge a conflict in boltseal.lock by image; as git's merge driver: --merge %O %A %B."
    ),
]
RenderOption = Annotated[
    bool | None,
    typer.Option(
        "--render/--no-render",
        show_default=False,
        help="Also lock what `kubectl kustomize`, `helm template` and `docker compose config` print.",
    ),
]
