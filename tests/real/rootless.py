"""Podman of a user without root: its API service, on the user's own store, and boltseal run by that user."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.attacks.scrub.users import Disk, disk
from tests.cli import program
from tests.polling import wait_until
from tests.programs import program as installed
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleepers


@dataclass(frozen=True, slots=True)
class Rootless:
    """Podman's API service of a user, on the user's own store. `name`: a published image."""

    user: Disk
    socket: Path
    name: str

    @property
    def store(self) -> Path:
        return self.user.home / ".local/share/containers/storage"

    def boltseal(self, *argv: str, as_user: bool) -> program.Run:
        address = f"unix://{self.socket}"
        before = (*self.user.as_user(), f"DOCKER_HOST={address}") if as_user else ()
        return program.run(*argv, environment={"DOCKER_HOST": address}, before=before)

    def tamper(self) -> None:
        """Add a byte to the image's program."""
        found = [*self.store.glob("overlay/*/diff/busybox")]
        for each in found:
            with each.open("ab") as file:
                file.write(b"!")

        assert found

    def statuses(self) -> dict[str, str]:
        """Return the result of each image by its first name."""
        done = program.run("scrub", "--root", self.store, "--json")
        return {each["names"][0]: each["status"] for each in done.json["results"] if each["what"] == "image"}


@contextmanager
def rootless_podman(registry: Registry, repository: str, tmp_path: Path) -> Iterator[Rootless]:
    """A user's Podman that may contact the registry without TLS."""
    user = disk(tmp_path / "disk")
    insecure = user.home / "registries.conf"
    insecure.write_text(f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n')
    socket = user.home / "run/p.sock"
    options = ("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
    argv = (*user.as_user(), f"CONTAINERS_REGISTRIES_CONF={insecure}", installed("podman"), *options)
    publish(registry.host, repository, "1.4.2", sleepers("shop"))
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([*argv, "system", "service", "--time", "0", f"unix://{socket}"], stderr=log) as service,
    ):
        try:
            wait_until(socket.exists, "the service listens")
            yield Rootless(user, socket, f"{registry.host}/{repository}:1.4.2")
        finally:
            service.terminate()
            service.wait(20)
            user.ended()
            servers.unmounted(tmp_path)
