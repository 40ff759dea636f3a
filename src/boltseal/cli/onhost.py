"""What the verbs on engines share: which engine is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
    """`--host`, DOCKER_HOST, or where Docker listens. EngineAddressInvalid."""
    from boltseal.config import client_paths
    from boltseal.engines.address import EngineAddress

    paths = client_paths()
    return EngineAddress.parse(host or paths.docker_host, paths.docker_certificates)
