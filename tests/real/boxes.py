"""Containers on the engines that tests start: harmless, without a network, and ended with their engine."""

from __future__ import annotations

from boltseal.engines.address import EngineAddress
from tests.real.tools import run


def started(
    address: EngineAddress, image: object, *command: str, terminal: bool = False, health: str = "", platform: str = ""
) -> str:
    """Start a container with a command or the image's own; return its ID. `address`: the engine's socket."""
    options = [*(["--tty"] if terminal else []), *(["--platform", platform] if platform else [])]
    if health:
        options += ["--health-cmd", health, "--health-interval", "1s"]
    docker = ("docker", "-H", str(address))
    id_ = run(*docker, "create", "--network", "none", *options, str(image), *command).checked().split()[-1]
    run(*docker, "start", id_).checked()
    return id_


def ended(address: EngineAddress, id_: str) -> None:
    """Remove a container at once, without the ten seconds for its program to end."""
    docker = ("docker", "-H", str(address))
    run(*docker, "kill", id_)
    run(*docker, "rm", "--force", id_).checked()
