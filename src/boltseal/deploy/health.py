"""Decides whether each service of a release is healthy, from the engine's list of its containers. Pure.

For a service, in this order:

1. It expects no container: healthy.
2. A container runs another image than the released one: failed, whatever its health.
3. A container exited with an error and is not restarted, or its health check reports unhealthy: failed.
4. Fewer containers than expected, one whose health check has no result yet, one that is being restarted: wait.
5. A container without a health check: healthy once it has run for SETTLE_S without a break. One that exited with 0 is done.
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
NUMBER: Final = "com.docker.compose.container-number"
DEPENDS_ON: Final = "com.docker.compose.depends_on"
WORKING_DIR: Final = "com.docker.compose.project.working_dir"
_ONE_OFF: Final = "com.docker.compose.oneoff"


class HealthStatus(StrEnum):
    """Whether a service is healthy, may become so, or failed."""

    HEALTHY = "healthy"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A service's status and its reason. `container`: the ID of the container whose log explains it, "" for none."""

    status: HealthStatus
    reason: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class ExpectedService:
    """The number of containers that a service must have, and their image ID."""

    containers: int
    image: Digest


@dataclass(slots=True)
class HealthWatch:
    """Judges the same services repeatedly. `settle_s`: see rule 5. `podman`: whether the engine is Podman."""

    wanted: Mapping[str, ExpectedService]
    settle_s: float = SETTLE_S
    podman: bool = False
    _since_s: dict[tuple[str, int | None], float] = field(default_factory=dict)

    def observe(self, containers: Sequence[EngineContainer], now_s: float) -> dict[str, ServiceHealth]:
        """Return the health of each service. `now_s`: of a monotonic clock."""
        for each in containers:
            if each.state is State.RUNNING:
                self._since_s.setdefault((each.id, each.started_us), now_s)
        return {
            name: self._judge(wanted, [each for each in containers if service_of(each) == name], now_s)
            for name, wanted in self.wanted.items()
        }

    def _judge(self, wanted: ExpectedService, containers: Sequence[EngineContainer], now_s: float) -> ServiceHealth:
        if wanted.containers == 0:  # 1
            return ServiceHealth(HealthStatus.HEALTHY, "it expects no containers")
        found = [self._container_health(wanted, each, now_s) for each in containers]
        for status in (HealthStatus.FAILED, HealthStatus.WAITING):  # 2, 3
            worst = next((each for each in found if each.status is status), None)
            if worst is not None:
                return worst
        if len(containers) < wanted.containers:  # 4
            return ServiceHealth(HealthStatus.WAITING, f"{len(containers)} of {wanted.containers} containers exist")
        return found[0]

    def _container_health(self, wanted: ExpectedService, container: EngineContainer, now_s: float) -> ServiceHealth:
        def health(status: HealthStatus, reason: str) -> ServiceHealth:
            return ServiceHealth(status, reason, container.id)

        if not runs_expected_image(wanted, container):  # 2
            got = "an image without an ID" if container.image is None else container.image.short
            return health(HealthStatus.FAILED, f"{container.name} runs {got}, expected {wanted.image.short}")
        if container.state in (State.EXITED, State.DEAD, State.REMOVING):
            if container.exit_code == 0 and container.state is State.EXITED:  # 5
                return health(HealthStatus.HEALTHY, "it exited with code 0")
            return health(HealthStatus.FAILED, f"{container.name} exited with code {container.exit_code}")  # 3
        if container.health is ContainerHealth.UNHEALTHY:
            return health(HealthStatus.FAILED, f"{container.name} is unhealthy by its health check")
        if container.state is not State.RUNNING:  # 4
            restarts = f", restarted {container.restarts} times" if container.restarts else ""
            return health(HealthStatus.WAITING, f"{container.name} is {container.state}{restarts}")
        if container.health is ContainerHealth.STARTING:
            hint = " (without systemd, boltseal asks Podman to run it)" if self.podman else ""
            return health(HealthStatus.WAITING, f"the health check of {container.name} has no result yet{hint}")
        if container.health is ContainerHealth.HEALTHY:
            return health(HealthStatus.HEALTHY, "its health check reports healthy")
        running_s = now_s - self._since_s[container.id, container.started_us]  # 5
        if running_s < self.settle_s:
            return health(
                HealthStatus.WAITING,
                f"{container.name} has no health check and has run for {running_s:.0f} of {self.settle_s:g} s",
            )
        return health(
            HealthStatus.HEALTHY, f"it has run for {self.settle_s:g} s without a break; it has no health check"
        )


def runs_expected_image(wanted: ExpectedService, container: EngineContainer) -> bool:
    """Return whether a container runs the expected image."""
    return container.image == wanted.image


def service_of(container: EngineContainer) -> str:
    """Return the service that a container belongs to; "" for a one-off container (`compose run`)."""
    return "" if container.labels.get(_ONE_OFF) == "True" else container.labels.get(SERVICE, "")
