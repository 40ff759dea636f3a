"""Options of `boltseal verify`."""

from __future__ import annotations

from typing import Annotated

import typer

OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Contact no registry: compare the files with the lock alone.")
]
GithubOption = Annotated[bool, typer.Option("--github", help="Write annotations of GitHub Actions.")]
RunningOption = Annotated[
    bool, typer.Option("--running", help="Compare the containers of hosts with the lock, instead of the files.")
]
ReleasedOption = Annotated[
    str | None,
    typer.Option(
        "--project-name",
        "-p",
        metavar="NAME",
        show_default=False,
        help="With --running --kube: compare with the running release of this project, not with boltseal.lock.",
    ),
]
