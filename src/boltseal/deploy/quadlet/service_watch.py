"""Waits until services of Quadlet units run as a release says.

1. A service that was restarted has a new invocation, and systemd has no job for it.
2. It is active. A oneshot service is done when it has ended with success.
3. Its container, which Podman labels with the service, runs the image of the release. Another image is a failure.
4. Its health check passes, if it has one.
5. That is so for `settle_s`. A service that systemd restarts again and again is a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from boltseal.deploy.quadlet.systemd import Systemd, UnitState
from boltseal.deploy.release_flow import LOG_LINES, Failure
from boltseal.engines.api import Engine
from boltseal.engines.inventory import ContainerHealth

UNIT_LABEL: Final = "PODMAN_SYSTEMD_UNIT"
_MAX_RESTARTS: Final = 2
_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class WatchedService:
    """A service that has to run. `before`: its state before the restart; `restart`: whether it was, or has to be, restarted."""

    service: str
    unit: str
    image_id: str
    before: UnitState
    restart: bool = False
    job: bool = False

    def restarted(self) -> WatchedService:
        """Return the service as one that has to be restarted."""
        return replace(self, restart=True)


@dataclass(frozen=True, slots=True)
class ServiceWatch:
    """Asks systemd and the engine about services."""

    systemd: Systemd
    engine: Engine

    async def runs(self, watched: WatchedService) -> bool:
        """Return whether a service's container runs the image of the release. Raises: errors of the engine."""
        return await self._container(watched) is None

    async def wait(
        self, watched: Sequence[WatchedService], within_s: float, settle_s: float, progress: Callable[[str], None]
    ) -> tuple[Failure, ...]:
        """Wait until all run; return those that failed, or do not run after `within_s`. Raises: SystemdFailed; errors of the engine."""
        loop = asyncio.get_running_loop()
        ends, since, shown = loop.time() + within_s, dict[str, float](), dict[str, str]()
        left = list(watched)
        while left:
            states = await asyncio.to_thread(self.systemd.states, [each.service for each in left])
            failed, waiting = dict[str, str](), dict[str, str]()
            for each in left:
                verdict = await self._verdict(each, states[each.service])
                if verdict is None:
                    since.setdefault(each.service, loop.time())
                    if not each.job and loop.time() - since[each.service] < settle_s:
                        waiting[each.service] = "runs; whether it stays so is not known yet"
                    continue
                since.pop(each.service, None)
                bad, why = verdict
                (failed if bad else waiting)[each.service] = why
            if failed or not waiting or loop.time() > ends:
                late = {name: f"{why}; not healthy after {within_s:g} s (--wait)" for name, why in waiting.items()}
                return tuple(self._failure(each, failed or late) for each in left if each.service in (failed or late))
            for name, why in waiting.items():
                if shown.get(name) != why:
                    progress(f"{name}: {why}")
            shown = waiting
            await asyncio.sleep(_PAUSE_S)
        return ()

    def _failure(self, watched: WatchedService, reasons: dict[str, str]) -> Failure:
        log = self.systemd.log(watched.service, LOG_LINES)
        return Failure(watched.unit, f"{watched.service}: {reasons[watched.service]}", log)

    async def _verdict(self, watched: WatchedService, state: UnitState) -> tuple[bool, str] | None:
        """Return None if a service runs as wanted, else whether it failed, and why."""
        if state.job:
            return False, f"systemd is restarting it ({state.active}, {state.sub})"
        if watched.restart and state.invocation == watched.before.invocation:
            return (
                True,
                f"was not started ({state.active}, result {state.result}); a unit that it requires may have failed",
            )
        if state.active == "failed" or (state.active == "inactive" and state.result not in ("", "success")):
            return True, f"failed (result {state.result})"
        if watched.job and state.active in ("inactive", "active"):
            return None
        if state.restarts >= _MAX_RESTARTS:
            return True, f"systemd restarted it {state.restarts} times"
        if state.active == "inactive":
            return True, "stopped"
        if state.active != "active":
            return False, f"{state.active}, {state.sub}"
        return await self._container(watched)

    async def _container(self, watched: WatchedService) -> tuple[bool, str] | None:
        """Return None if the service's container runs the right image and is healthy, else whether it failed, and why."""
        found = [each for each in await self.engine.containers(label=f"{UNIT_LABEL}={watched.service}") if each.running]
        if not found:
            return False, "has no running container"
        for each in found:
            if str(each.image) != watched.image_id:
                return True, f"runs another image (got {each.image}, expected {watched.image_id})"
            if each.health is ContainerHealth.UNHEALTHY:
                return True, "its health check fails"
            if each.health is ContainerHealth.STARTING:
                return False, "its health check has not passed yet"
        return None
