"""Health of started services, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from boltseal.deploy.health import SERVICE, ExpectedService, HealthStatus, HealthWatch, service_of
from boltseal.engines.inventory import ContainerHealth, EngineContainer, State
from boltseal.oci.digest import Digest

IMAGE, OTHER = (Digest("sha256", letter * 64) for letter in "ab")
RUNS = EngineContainer("1" * 64, "shop-web-1", "app:1", IMAGE, State.RUNNING, labels={SERVICE: "web"}, started_us=1)


def judged(containers: Sequence[EngineContainer], *, wanted: int = 1, after_s: float = 0.0) -> tuple[HealthStatus, str]:
    """Return the health of the service `web` after two observations."""
    watch = HealthWatch({"web": ExpectedService(wanted, IMAGE)})
    watch.observe(containers, 100.0)
    verdict = watch.observe(containers, 100.0 + after_s)["web"]
    return verdict.status, verdict.reason


def test_a_service_without_a_health_check_must_run_for_the_settle_time() -> None:
    """A service without a health check is healthy only after it ran for the settle time."""
    assert judged([RUNS], after_s=4.9)[0] is HealthStatus.WAITING
    assert judged([RUNS], after_s=5.0)[0] is HealthStatus.HEALTHY


def test_podman_without_systemd_is_explained() -> None:
    """For Podman without systemd, which runs its health checks, the message explains why there is no result."""
    starting = replace(RUNS, health=ContainerHealth.STARTING)
    health = HealthWatch({"web": ExpectedService(1, IMAGE)}, podman=True).observe([starting], 100.0)["web"]

    assert health.reason.endswith("has no result yet (without systemd, boltseal asks Podman to run it)")
    assert judged([starting])[1].endswith("has no result yet")


def test_a_restart_resets_the_settle_time() -> None:
    """The settle time begins again after a restart."""
    watch = HealthWatch({"web": ExpectedService(1, IMAGE)})
    watch.observe([RUNS], 100.0)

    assert watch.observe([replace(RUNS, started_us=2)], 110.0)["web"].status is HealthStatus.WAITING


def test_a_health_check_alone_decides() -> None:
    """With a health check the result decides at once; without a result yet, the service is waited for."""
    assert judged([replace(RUNS, health=ContainerHealth.HEALTHY)])[0] is HealthStatus.HEALTHY
    assert judged([replace(RUNS, health=ContainerHealth.STARTING)], after_s=1000)[0] is HealthStatus.WAITING
    assert judged([replace(RUNS, health=ContainerHealth.UNHEALTHY)], after_s=1000) == (
        HealthStatus.FAILED,
        "shop-web-1 is unhealthy by its health check",
    )


@pytest.mark.parametrize(
    ("state", "code", "status"),
    [
        (State.EXITED, 0, HealthStatus.HEALTHY),
        (State.EXITED, 1, HealthStatus.FAILED),
        (State.DEAD, 0, HealthStatus.FAILED),
        (State.REMOVING, None, HealthStatus.FAILED),
        (State.CREATED, None, HealthStatus.WAITING),
        (State.RESTARTING, 1, HealthStatus.WAITING),
        (State.PAUSED, None, HealthStatus.WAITING),
    ],
)
def test_the_container_state_decides(state: State, code: int | None, status: HealthStatus) -> None:
    """A container that exited with 0 is done, and a restarting one is waited for."""
    assert judged([replace(RUNS, state=state, exit_code=code)], after_s=1000)[0] is status


def test_another_image_is_a_failure_whatever_its_health() -> None:
    """A container with another image, started by another program, is a failure whatever its health."""
    found = judged([replace(RUNS, image=OTHER, health=ContainerHealth.HEALTHY)])

    assert found == (HealthStatus.FAILED, f"shop-web-1 runs {OTHER.short}, expected {IMAGE.short}")
    assert judged([replace(RUNS, image=None)])[0] is HealthStatus.FAILED


def test_all_containers_of_a_service_count() -> None:
    """The worst container of a service decides, and missing ones are waited for."""
    good = replace(RUNS, health=ContainerHealth.HEALTHY)
    ill = replace(RUNS, id="2" * 64, health=ContainerHealth.UNHEALTHY)

    assert judged([good], wanted=2) == (HealthStatus.WAITING, "1 of 2 containers exist")
    assert judged([good, ill], wanted=2)[0] is HealthStatus.FAILED
    assert judged([good, replace(ill, health=ContainerHealth.HEALTHY)], wanted=2)[0] is HealthStatus.HEALTHY


def test_a_service_of_no_containers_is_healthy() -> None:
    """A service with zero expected containers is healthy."""
    assert judged([], wanted=0)[0] is HealthStatus.HEALTHY


def test_one_off_containers_belong_to_no_service() -> None:
    """Containers of `docker compose run`, which also have the service's label, are ignored."""
    by_hand = replace(RUNS, labels={SERVICE: "web", "com.docker.compose.oneoff": "True"})

    assert service_of(by_hand) == ""
    assert judged([by_hand])[0] is HealthStatus.WAITING
