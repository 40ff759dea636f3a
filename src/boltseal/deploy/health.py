"""Is what was started healthy? Judged for each service from what the engine says of its containers. Pure.

For a service, in this order:

1. It wants no container: there is nothing to wait for.
2. A container runs another image than was released: failed, whatever its health.
3. A container has ended with an error and nobody starts it again, or its own check says unhealthy: failed.
4. Fewer containers than it wants, one whose check has not decided, one that is being started again: wait.
5. One without a check: healthy once it has run for SETTLE_S without a break. One that ended with 0 has done its work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from boltseal.engines.inventory import ContainerHealth, EngineContainer, State
from boltseal.oci.digest import Digest

SETTLE_S: Final = 5.0
PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
CONFIG_HASH: Final = "com.docker.compose.config-hash"
_ONE_OFF: Final = "com.docker.compose.oneoff"


class HealthStatus(StrEnum):
    """What is known of a service."""

    HEALTHY = "healthy"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A service's judgement, and what it is made of. `container`: the ID of the one whose log says more, "" for none."""

    status: HealthStatus
    reason: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class ExpectedService:
    """How many containers of which image, as the engine calls it, a service is to have."""

    containers: int
    image: Digest


@dataclass(slots=True)
class HealthWatch:
    """Looks at the same services again and again. `settle_s`: see rule 5. `podman`: it is Podman's word that is judged."""

    wanted: Mapping[str, ExpectedService]
    settle_s: float = SETTLE_S
    podman: bool = False
    _since_s: dict[tuple[str, int | None], float] = field(default_factory=dict)

    def look(self, containers: Sequence[EngineContainer], now_s: float) -> dict[str, ServiceHealth]:
        """A verdict for each service. `now_s`: a clock that only goes forward."""
        for each in containers:
            if each.state is State.RUNNING:
                self._since_s.setdefault((each.id, each.started_us), now_s)
        return {
            name: self._judge(wanted, [each for each in containers if service_of(each) == name], now_s)
            for name, wanted in self.wanted.items()
        }

    def _judge(self, wanted: ExpectedService, containers: Sequence[EngineContainer], now_s: float) -> ServiceHealth:
        if wanted.containers == 0:  # 1
            return ServiceHealth(HealthStatus.HEALTHY, "it is to have no containers")
        found = [self._one(wanted, each, now_s) for each in containers]
        for status in (HealthStatus.FAILED, HealthStatus.WAITING):  # 2, 3
            worst = next((each for each in found if each.status is status), None)
            if worst is not None:
                return worst
        if len(containers) < wanted.containers:  # 4
            return ServiceHealth(HealthStatus.WAITING, f"{len(containers)} of {wanted.containers} containers are there")
        return found[0]

    def _one(self, wanted: ExpectedService, container: EngineContainer, now_s: float) -> ServiceHealth:
        def said(status: HealthStatus, reason: str) -> ServiceHealth:
            return ServiceHealth(status, reason, container.id)

        if not runs_expected_image(wanted, container):  # 2
            is_ = "an image without an ID" if container.image is None else container.image.short
            return said(HealthStatus.FAILED, f"{container.name} runs {is_}, not what was released")
        if container.state in (State.EXITED, State.DEAD, State.REMOVING):
            if container.exit_code == 0 and container.state is State.EXITED:  # 5
                return said(HealthStatus.HEALTHY, "it has done its work and ended with 0")
            return said(HealthStatus.FAILED, f"{container.name} ended with exit code {container.exit_code}")  # 3
        if container.health is ContainerHealth.UNHEALTHY:
            return said(HealthStatus.FAILED, f"{container.name} is unhealthy by its own check")
        if container.state is not State.RUNNING:  # 4
            again = f", started again {container.restarts} times" if container.restarts else ""
            return said(HealthStatus.WAITING, f"{container.name} is {container.state}{again}")
        if container.health is ContainerHealth.STARTING:
            hint = " (Podman has systemd run checks: where there is none, they never decide)" if self.podman else ""
            return said(HealthStatus.WAITING, f"the check of {container.name} has not decided yet{hint}")
        if container.health is ContainerHealth.HEALTHY:
            return said(HealthStatus.HEALTHY, "its own check says so")
        for_s = now_s - self._since_s[container.id, container.started_us]  # 5
        if for_s < self.settle_s:
            return said(
                HealthStatus.WAITING,
                f"{container.name} has no check, and has run for {for_s:.0f} of {self.settle_s:g} s",
            )
        return said(HealthStatus.HEALTHY, f"it runs, for {self.settle_s:g} s without a break; it has no check")


def runs_expected_image(wanted: ExpectedService, container: EngineContainer) -> bool:
    """Whether a container runs the image that it is to run."""
    return container.image == wanted.image


def service_of(container: EngineContainer) -> str:
    """The service of a project that a container belongs to; "" for one that somebody runs by hand (`compose run`)."""
    return "" if container.labels.get(_ONE_OFF) == "True" else container.labels.get(SERVICE, "")
