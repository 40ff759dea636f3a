"""SIGKILL of boltseal, PostgreSQL and the S3 server amid pushes: the five statements of `checker` hold afterwards."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.object_faults import Fault, kind_of, no_fault
from tests.polling import until, wait_until
from tests.server.faults.checker import WITHIN_S, Checker
from tests.server.faults.installation import Installation
from tests.soak.processes import kill_tree
from tests.soak.scale import IS_FULL
from tests.storage_servers import ObjectServer, Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

KILLS = 25 if IS_FULL else 2
STEPS = (
    "PUT blobs",
    "PUT index",
    "PUT manifests",
    "PUT ledger",
    "PUT checkpoint",
    "POST blobs uploads",
    "PUT blobs partNumber+uploadId",
    "POST blobs uploadId",
)
"""All kinds of requests that write something for a push: objects of blobs and manifests, tiles, and a large object in parts."""


async def test_boltseal_is_killed_amid_pushes(installed: Installation) -> None:
    """The whole process group is killed at a random moment, again and again; the next start continues."""
    checker = Checker(installed)
    dice = random.Random(1)  # noqa: S311 - not for secrets
    for _ in range(KILLS):
        with installed.serve(workers=2) as server:
            async with checker.pushing():
                await checker.some_acknowledged()
                await asyncio.sleep(dice.uniform(0, 1))  # the moment of the kill, at random
                await asyncio.to_thread(kill_tree, server.pid)
        with installed.serve(workers=2):
            await checker.check()

    assert checker.lost_answers >= KILLS


async def test_postgresql_is_killed_amid_pushes(installed: Installation, database: Postgres) -> None:
    """PostgreSQL is killed and started again: meanwhile the registry is not ready, and refuses pushes."""
    checker = Checker(installed)
    ready_without = []
    with installed.serve():
        for _ in range(KILLS):
            async with checker.pushing() as client:
                await checker.some_acknowledged()
                database.kill()
                ready_without.append(await checker.is_ready(client))
                database.start()
                await asyncio.to_thread(wait_until, database.answers, "PostgreSQL takes connections")
                await checker.some_acknowledged()
            await checker.check()

    assert not any(ready_without)


@dataclass(slots=True)
class KillAtStep:
    """A plan of the proxy that kills the S3 server at the next request of one kind, before or after it is done."""

    installed: Installation
    server: ObjectServer
    kind: str = ""
    after: bool = False
    seen: dict[str, None] = field(default_factory=dict)
    """The kinds of requests so far, in their order."""
    killed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, kind: str, *, after: bool) -> None:
        """Kill at the next request of this kind."""
        self.killed.clear()
        self.kind, self.after = kind, after
        self.installed.proxy.on_lost = self._kill

    def __call__(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request."""
        kind = kind_of(method, path)
        self.seen[kind] = None
        with self._lock:
            if kind != self.kind:
                return Fault.TORN if self.killed.is_set() else None
            self.kind = ""
            if self.after:
                return Fault.LOST
            self._kill()
            return Fault.TORN

    def _kill(self) -> None:
        self.server.kill()
        self.killed.set()


async def test_the_s3_server_is_killed_at_every_step_of_a_push(installed: Installation, objects: ObjectServer) -> None:
    """For each kind of request that pushes cause the S3 server is killed before and after it has done one."""
    checker, plan = Checker(installed), KillAtStep(installed, objects)
    ready_without: dict[str, bool] = {}
    with installed.serve():
        installed.proxy.plan = plan
        async with checker.pushing() as client:
            await checker.some_acknowledged(1)
            for number, kind in enumerate(STEPS):
                for after in (False, True) if IS_FULL else (number % 2 == 1,):
                    plan.arm(kind, after=after)
                    await until(plan.killed.is_set, f"a request {kind!r}", WITHIN_S)
                    ready_without[kind] = await checker.is_ready(client)
                    await started_again(installed, objects, plan)
                    await checker.until_ready(client)
                    await checker.some_acknowledged(1)
        installed.proxy.plan = no_fault
        await checker.check()

    assert ready_without == dict.fromkeys(STEPS, False)
    assert {kind for kind in plan.seen if kind.startswith("PUT")} <= {*STEPS, "PUT health"}


async def started_again(installed: Installation, objects: ObjectServer, plan: KillAtStep) -> None:
    """Start the S3 server again, and let requests pass."""
    objects.start()
    await asyncio.to_thread(wait_until, objects.answers, "the S3 server stores objects again")
    plan.killed.clear()


async def test_requests_to_the_s3_server_fail_and_break_off(installed: Installation) -> None:
    """Every third request to the S3 server gets 503, is torn, or is done and its answer lost or cut, amid pushes."""
    checker = Checker(installed)
    dice = random.Random(2)  # noqa: S311 - not for secrets
    faults = [Fault.REFUSED, Fault.TORN, Fault.LOST, Fault.CUT]
    with installed.serve():
        async with checker.pushing() as client:
            await checker.some_acknowledged(1)
            installed.proxy.plan = lambda _method, _path: dice.choice(faults) if dice.random() < 1 / 3 else None
            await checker.some_acknowledged(50 if IS_FULL else 4)
            installed.proxy.plan = lambda _method, _path: dice.choice(faults)
            ready_without = await ready_after_failures(checker, client)
            installed.proxy.plan = no_fault
        await checker.check()

    assert not ready_without
    assert len(installed.proxy.failed) > 20


async def ready_after_failures(checker: Checker, client: httpx2.AsyncClient) -> bool:
    """Return readiness while every request to the S3 server fails."""
    return await checker.is_ready(client)
