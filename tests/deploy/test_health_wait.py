"""How soon the end of a wait is noticed, and how often the engine is asked until then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx2
import pytest

from boltseal.deploy.health import SERVICE, ExpectedService, HealthStatus
from boltseal.deploy.health_wait import ProjectHealth
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import QUERY_S, Engine
from boltseal.engines.inventory import ContainerHealth, EngineContainer, State
from boltseal.oci.digest import Digest
from tests.virtual_time import in_virtual_time

IMAGE = Digest("sha256", "a" * 64)
BEFORE = EngineContainer(
    "1" * 64, "shop-web-1", "app:1", IMAGE, State.RUNNING, ContainerHealth.STARTING, labels={SERVICE: "web"}
)


class TimedEngine(Engine):
    """An engine with one container, which becomes `after` at a time of the loop. `looks`: the times of all requests."""

    def __init__(self, after: EngineContainer, at_s: float) -> None:
        super().__init__(httpx2.AsyncClient(), "http://engine", EngineAddress.parse("unix:///engine.sock"), None)
        self.after = after
        self.at_s = at_s
        self.looks: list[float] = []

    async def containers(
        self, *, all_: bool = False, label: str = "", within_s: float = QUERY_S
    ) -> tuple[EngineContainer, ...]:
        self.looks.append(asyncio.get_running_loop().time())
        return (self.after if self.looks[-1] >= self.at_s else BEFORE,)


@pytest.mark.parametrize(("at_s", "late_s", "looks"), [(0.3, 0.05, 8), (2.0, 0.2, 30), (60.0, 0.5, 160)])
@in_virtual_time
async def test_a_healthy_service_is_noticed_soon(at_s: float, late_s: float, looks: int) -> None:
    """A health check's result is noticed after at most a tenth more of the time, and half a second in a long wait."""
    engine = TimedEngine(replace(BEFORE, health=ContainerHealth.HEALTHY), at_s)
    health = ProjectHealth(engine, "shop", lambda _line: None)
    found = await health.wait({"web": ExpectedService(1, IMAGE)}, 120.0)

    assert found["web"].status is HealthStatus.HEALTHY
    assert engine.looks[-1] - at_s <= late_s + 0.001
    assert len(engine.looks) <= looks


@in_virtual_time
async def test_a_job_that_ended_is_noticed_soon() -> None:
    """The end of a job is noticed after at most a twentieth of a second, if the job was short."""
    engine = TimedEngine(replace(BEFORE, state=State.EXITED, exit_code=0), 0.12)
    found = await ProjectHealth(engine, "shop", lambda _line: None).job_exit("web", 120.0)

    assert found.status is HealthStatus.HEALTHY
    assert engine.looks[-1] <= 0.12 + 0.051


@in_virtual_time
async def test_the_time_limit_of_a_wait_is_kept() -> None:
    """A wait ends at most half a second after its time limit, with the services that are not healthy yet."""
    engine = TimedEngine(BEFORE, 1000.0)
    found = await ProjectHealth(engine, "shop", lambda _line: None).wait({"web": ExpectedService(1, IMAGE)}, 8.0)

    assert found["web"].status is HealthStatus.WAITING
    assert 8.0 <= engine.looks[-1] <= 8.5


@in_virtual_time
async def test_a_job_without_an_exit_code_has_failed() -> None:
    """A job's container that ended, and of which the engine reports no exit code, counts as failed."""
    engine = TimedEngine(replace(BEFORE, state=State.EXITED), 0.12)
    found = await ProjectHealth(engine, "shop", lambda _line: None).job_exit("web", 120.0)

    assert found.status is HealthStatus.FAILED
    assert found.reason == "shop-web-1 exited without an exit code"


@in_virtual_time
async def test_the_end_of_a_clean_up_is_waited_for() -> None:
    """Containers that Podman still cleans up after are waited for, and named if that takes too long."""
    engine = TimedEngine(replace(BEFORE, state=State.EXITED, exit_code=0, cleaned_up=False), 0.0)
    health = ProjectHealth(engine, "shop", lambda _line: None)
    late = await health.not_cleaned_up({"web"}, 10.0)
    other = await health.not_cleaned_up({"db"}, 10.0)
    engine.after = replace(engine.after, cleaned_up=True)
    done = await health.not_cleaned_up({"web"}, 10.0)

    assert late == [replace(engine.after, cleaned_up=False)]
    assert other == done == []
    assert 10.0 < engine.looks[-1] < 10.6
