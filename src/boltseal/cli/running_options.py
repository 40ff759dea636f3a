"""Options of the commands that list running containers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        show_default=False,
        help="An engine, may be repeated: unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT]. "
        "Default: DOCKER_HOST, else Docker's socket.",
    ),
]
ComposeOption = Annotated[
    Path | None,
    typer.Option("--compose", metavar="FILE", show_default=False, help="Only the containers of this Compose project."),
]
KubeOption = Annotated[
    str | None,
    typer.Option("--kube", metavar="NAME", show_default=False, help="A cluster, by kubectl and this context."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", show_default=False, help="With --kube: this namespace, not all."),
]
