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
