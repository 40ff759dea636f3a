"""Containers on the engines that tests start: harmless, without a network, and ended with their engine."""

from __future__ import annotations

from boltseal.runtimes.address import EngineAddress
from tests.real.tools import run


def started(
    address: EngineAddress, image: object, *command: str, terminal: bool = False, health: str = "", name: str = ""
) -> str:
    """Start a container of an image with a command, or the image's own; its ID. `address`: dockerd's or podman's socket."""
    options = [*(["--tty"] if terminal else []), *(["--name", name] if name else [])]
    if health:
        options += ["--health-cmd", health, "--health-interval", "1s"]
    docker = ("docker", "-H", str(address))
    id_ = run(*docker, "create", "--network", "none", *options, str(image), *command).checked().split()[-1]
    run(*docker, "start", id_).checked()
    return id_
