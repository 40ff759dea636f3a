"""Runs the health checks of containers on Podman where no systemd runs them by timers.

Podman has a check run by a request. It is sent only if a check is overdue: the last result, or the start, is older than the
check's interval and a second. Where systemd runs the checks, none is overdue.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from boltseal.engines.api import Engine
from boltseal.engines.inventory import ContainerHealth, EngineContainer, State
from boltseal.errors import BoltsealError

_GRACE_S: Final = 1.0
_DEFAULT_S: Final = 30.0
_NS: Final = 1e9


class _Result(msgspec.Struct, rename={"start": "Start"}):
    start: str = ""


class _Health(msgspec.Struct, rename={"log": "Log"}):
    log: list[_Result] | None = None


class _State(msgspec.Struct, rename={"health": "Health"}):
    health: _Health | None = None


class _Check(msgspec.Struct, rename={"interval": "Interval"}):
    interval: int = 0


class _Config(msgspec.Struct, rename={"check": "Healthcheck"}):
    check: _Check | None = None


class _Container(msgspec.Struct, rename={"state": "State", "config": "Config"}):
    state: _State
    config: _Config


@dataclass(slots=True)
class PodmanChecks:
    """Runs overdue checks. `_seen`: the last result of each container, and since when it is known, by a monotonic clock."""

    engine: Engine
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    async def run(self, containers: Iterable[EngineContainer], now_s: float) -> bool:
        """Run the overdue checks of containers whose health is not known yet; return whether there were any.

        A failure leaves the health unknown.
        """
        if not self.engine.about.podman:
            return False
        found = False
        for each in containers:
            if each.state is State.RUNNING and each.health is ContainerHealth.STARTING:
                with suppress(BoltsealError, msgspec.MsgspecError):
                    found |= await self._run(each.id, now_s)
        return found

    async def _run(self, id_: str, now_s: float) -> bool:
        found = msgspec.json.decode(await self.engine.ask("GET", f"containers/{id_}/json"), type=_Container)
        log = [] if found.state.health is None else found.state.health.log or []
        last = log[-1].start if log else ""
        before, since_s = self._seen.setdefault(id_, (last, now_s))
        if before != last:
            since_s = now_s
            self._seen[id_] = (last, now_s)
        interval_s = (found.config.check.interval if found.config.check is not None else 0) / _NS or _DEFAULT_S
        overdue = now_s - since_s >= interval_s + _GRACE_S
        if overdue:
            await self.engine.ask("GET", f"libpod/containers/{id_}/healthcheck")
        return overdue
