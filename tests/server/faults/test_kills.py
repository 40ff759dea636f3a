"""SIGKILL of boltseal, PostgreSQL and the S3 server amid pushes: the five statements of `checker` hold afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from tests.object_faults import Fault, kind_of, no_fault
from tests.polling import until, until_answer, wait_until
from tests.server.faults.checker import WITHIN_S, Checker
from tests.server.faults.conftest import PROCESSES_END
from tests.server.faults.installation import Installation, installation
from tests.soak.processes import kill_tree, tree
from tests.soak.scale import IS_FULL
from tests.soak.traffic import client_of
from tests.storage_servers import ObjectServer, Postgres, postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

KILLS = 25 if IS_FULL else 2
STEPS = (
    "PUT blobs",
    "PUT index",
    "PUT manifests",
    "PUT owner",
    "PUT ledger",
    "PUT checkpoint",
    "POST blobs uploads",
    "PUT blobs partNumber+uploadId",
    "POST blobs uploadId",
)
"""All kinds of requests that write something for a push: objects of blobs and manifests, the statement of the next head, tiles, and a large object in parts."""


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


async def test_an_upload_that_was_answered_continues_after_postgresql_was_killed(
    tmp_path: Path, objects: ObjectServer, object_server: ObjectServer
) -> None:
    """A session and a chunk that were answered are there again, although PostgreSQL never wrote what need not be durable."""
    data = b"upload" * 1000
    with postgres(settings=PROCESSES_END) as server:
        url = server.url(server.create_database())
        with installation(tmp_path, url, objects, object_server) as made, made.serve():
            async with client_of(made.url) as client:
                os.kill(_process_of(server, "walwriter"), signal.SIGSTOP)
                began, chunked = [await client.post("/v2/shop/app/blobs/uploads/") for _ in range(2)]
                chunk = await client.patch(chunked.headers["location"], content=data[:1000])
                server.kill()
                server.start()
                await asyncio.to_thread(wait_until, server.answers, "PostgreSQL takes connections")
                await Checker(made).until_ready(client)
                ended = [await _finished(client, began, data), await _finished(client, chunk, data[1000:], data)]

    assert [answer.status_code for answer in (began, chunked, chunk, *ended)] == [202, 202, 202, 201, 201]


def _process_of(server: Postgres, title: str) -> int:
    """Return the process of a PostgreSQL that has a title."""
    return next(each for each in tree(server.pid) if title in Path(f"/proc/{each}/cmdline").read_text())


async def _finished(
    client: httpx2.AsyncClient, session: httpx2.Response, rest: bytes, whole: bytes | None = None
) -> httpx2.Response:
    """Send the rest of a blob as the last request of its session, again while the session belongs to the killed request."""
    url = httpx2.URL(session.headers["location"]).copy_add_param("digest", str(Digest.of(whole or rest)))

    answers: list[httpx2.Response] = []

    async def decided() -> bool:
        answers.append(await client.put(url, content=rest))
        return answers[-1].status_code != httpx2.codes.SERVICE_UNAVAILABLE

    await until_answer(decided, "the session is free", WITHIN_S)
    return answers[-1]


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
