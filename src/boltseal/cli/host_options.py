"""The option for a file of hosts, and the hosts that it and `--host` name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.loading import deferred

if TYPE_CHECKING:
    from boltseal.engines import host_list
else:  # most commands are about this host
    host_list = deferred("boltseal.engines.host_list")

HostsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--hosts-file",
        metavar="FILE",
        show_default=False,
        help="Also the hosts in this file, one a line; lines that begin with # are comments.",
    ),
]


def named_hosts(hosts: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """Return the hosts of `--host` and `--hosts-file`, each once. Raises: HostsFileInvalid; OSError: the file can't be read."""
    if not hosts and file is None:
        return ()
    named = [host_list.with_scheme(each) for each in hosts or ()]
    return tuple(dict.fromkeys([*named, *(() if file is None else host_list.read_hosts(file))]))
