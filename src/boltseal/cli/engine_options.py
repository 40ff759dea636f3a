"""The option that names a container engine."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.engines.address import EngineAddress

HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="The engine: unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT]. [default: DOCKER_HOST, else Docker's socket]",
        show_default=False,
    ),
]


def engine_address(host: str | None = None) -> EngineAddress:
    """Return the address in `host`, else in DOCKER_HOST, else of Docker's socket. Raises: EngineAddressInvalid."""
    return client_context().engine_address(host)
