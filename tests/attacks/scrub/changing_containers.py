"""Containers that change only their own files."""

from __future__ import annotations

from collections.abc import Callable

from tests.polling import wait_until


def changing_command(changes: str) -> tuple[str, str, str]:
    """Return the command of a container that changes files, prints `done`, and keeps running.

    The container's own process changes them, after checking that it is in a container: `docker exec` on a daemon in a chroot enters the
    machine's own root and would change the machine.
    """
    return "/bin/sh", "-c", f"[ -e /.dockerenv ] || exit 1; {changes}; echo done; exec sleep 1000"


def wait_until_changed(log: Callable[[], str]) -> None:
    """Wait until a container with a `changing_command` has changed its files. `log`: returns its output so far."""
    wait_until(lambda: "done" in log(), "the container has changed its files")
