"""Reloads, restarts and asks systemd, by `systemctl`, for root or for this user."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Unavailable, quote

_RUNS: Final = ("running", "degraded", "starting", "initializing", "maintenance")
_LIMIT_S: Final = 90.0
_SHOWN: Final = ("Id", "ActiveState", "SubState", "Result", "Type", "NRestarts", "InvocationID", "Job")


class SystemdFailed(Unavailable):
    """systemctl failed, or is missing."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """The state of a service. `invocation`: of its last start; `job`: whether systemd has something to do for it."""

    active: str
    sub: str
    result: str
    oneshot: bool
    restarts: int
    invocation: str
    job: bool


@dataclass(frozen=True, slots=True)
class Systemd:
    """systemd of the host, or of this user. `environment`: of this process."""

    user: bool
    environment: Mapping[str, str]

    def runs(self) -> bool:
        """Return whether systemd runs here and answers."""
        try:
            return self._run(["is-system-running"]).stdout.decode().strip() in _RUNS
        except SystemdFailed:
            return False

    def reload(self) -> None:
        """Have systemd run Podman's generator again, and load what it makes. Raises: SystemdFailed."""
        self._checked(["daemon-reload"])

    def restart(self, services: Sequence[str]) -> None:
        """Restart services, in systemd's order, without waiting. Raises: SystemdFailed."""
        if services:
            self._checked(["restart", "--no-block", "--", *services])

    def stop(self, services: Sequence[str]) -> None:
        """Stop services, and wait. Raises: SystemdFailed."""
        if services:
            self._checked(["stop", "--", *services])

    def instances(self, template: str) -> tuple[str, ...]:
        """Return the active instances of a template such as `web@.service`. Raises: SystemdFailed."""
        pattern = template.replace("@.", "@*.")
        found = self._checked(["list-units", "--plain", "--no-legend", "--state=active,activating", "--", pattern])
        return tuple(line.split()[0] for line in found.splitlines() if line.strip())

    def states(self, services: Iterable[str]) -> dict[str, UnitState]:
        """Return the states of services by their names. Raises: SystemdFailed."""
        wanted, found = list(services), dict[str, UnitState]()
        if not wanted:
            return found
        shown = self._checked(["show", "--property", ",".join(_SHOWN), "--", *wanted])
        for name, block in zip(wanted, shown.strip("\n").split("\n\n"), strict=False):
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            found[name] = UnitState(
                values.get("ActiveState", ""),
                values.get("SubState", ""),
                values.get("Result", ""),
                values.get("Type") == "oneshot",
                int(values.get("NRestarts") or 0),
                values.get("InvocationID", ""),
                bool(values.get("Job")),
            )
        missing = [each for each in wanted if each not in found]
        if missing:
            raise SystemdFailed(f"systemctl show says nothing about {', '.join(missing)}")
        return found

    def log(self, service: str, lines: int) -> tuple[str, ...]:
        """Return the last lines of a service's journal; a line that says why not, if it can't be read."""
        words = ["journalctl", *(["--user"] if self.user else []), "-o", "cat", "-n", str(lines), "-u", service]
        try:
            done = self._run(words, whole=True)
        except SystemdFailed as error:
            return (f"(could not read its journal: {error.message})",)
        return tuple(done.stdout.decode("utf-8", "replace").splitlines()[-lines:])

    def _checked(self, words: Sequence[str]) -> str:
        done = self._run(words)
        if done.returncode:
            printed = (done.stderr or done.stdout).decode("utf-8", "replace").strip().replace("\n", " ")
            raise SystemdFailed(f"systemctl {words[0]} failed: {quote(printed, 300)[1:-1]}")
        return done.stdout.decode("utf-8", "replace")

    def _run(self, words: Sequence[str], *, whole: bool = False) -> subprocess.CompletedProcess[bytes]:
        begin = [] if whole else ["systemctl", *(["--user"] if self.user else []), "--no-pager"]
        try:
            return subprocess.run(  # noqa: S603 - fixed words, and names that the generator made
                [*begin, *words],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_LIMIT_S,
            )
        except FileNotFoundError as error:
            raise SystemdFailed(f"{[*begin, *words][0]} is not installed") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SystemdFailed(f"{[*begin, *words][0]} {words[0]} did not end: {error}") from error
