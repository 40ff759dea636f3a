"""`boltseal serve` as a process: metrics of all its workers, and its access log on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import httpx2
import pytest

from boltseal.server.storage.metrics import RunFolder
from tests.polling import wait_until
from tests.server.serve.process import client_of, replaced, workers_of
from tests.servers import boltseal

pytestmark = pytest.mark.slow

ASKED = re.compile(r'boltseal_http_requests_total\{method="GET",route="/v2/",status="200"\} (\d+)')


def saved(data: Path, pid: int) -> int:
    """Return the requests in the metrics that the workers have saved."""
    found = RunFolder(data / "run" / str(pid)).others().requests.get(("GET", "/v2/", 200))
    return found.count if found is not None else 0


def test_any_worker_serves_the_metrics_of_all_current_and_former_workers(tmp_path: Path) -> None:
    """Metrics have every request of all workers once, also of one that was killed."""
    with boltseal(tmp_path / "data", workers=2) as server:

        def counted() -> int:
            with client_of(server) as client:
                found = ASKED.search(client.get("/metrics").text)
            return int(found[1]) if found else 0

        for _ in range(20):
            with client_of(server) as client:
                client.get("/v2/")
        wait_until(lambda: counted() == 20, "20 requests are counted", 10.0)
        # What a worker has not saved yet is lost when it is killed.
        wait_until(lambda: saved(tmp_path / "data", server.pid) == 20, "20 requests are saved", 10.0)
        first = workers_of(server.pid)
        os.kill(first[0], signal.SIGKILL)
        replaced(server, first)

        def still() -> bool:
            try:
                return counted() == 20
            except httpx2.TransportError:
                return False

        wait_until(still, "20 requests are still counted", 10.0)
        folder = tmp_path / "data" / "run"
        during = [path.name for path in folder.iterdir()]
    with boltseal(tmp_path / "data") as server:
        after = [path.name for path in folder.iterdir()]

        assert during != after == [str(server.pid)]


def test_process_metrics_cover_the_parent_and_all_workers(tmp_path: Path) -> None:
    """Metrics have the memory of all processes, and processor time that does not decrease after a kill."""
    with boltseal(tmp_path / "data", workers=2) as server:

        def metric(name: str) -> float:
            try:
                with client_of(server) as client:
                    lines = client.get("/metrics").text.splitlines()
            except httpx2.TransportError:  # the worker that was asked has been killed
                return 0.0
            return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

        def resident_bytes(pid: int) -> int:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        wait_until(lambda: metric("boltseal_workers") == 2, "both workers have saved", 20.0)
        workers = workers_of(server.pid)
        resident, cpu_s = metric("process_resident_memory_bytes"), metric("process_cpu_seconds_total")
        expected = sum(map(resident_bytes, [server.pid, *workers]))
        started = metric("process_start_time_seconds")
        os.kill(workers[0], signal.SIGKILL)
        replaced(server, workers)
        wait_until(lambda: metric("boltseal_workers") == 2, "the new worker has saved", 20.0)
        later_cpu_s = metric("process_cpu_seconds_total")

    assert len(workers) == 2
    assert 0.7 * expected < resident < 1.3 * expected
    assert 0 < cpu_s <= later_cpu_s
    assert abs(time.time() - started) < 600


def test_the_access_log_has_one_object_per_line(tmp_path: Path) -> None:
    """All lines of the access log are written at the end of the server, one object per line; disabled, there are none."""
    for wanted in (True, False):
        data = tmp_path / str(wanted)
        with (
            boltseal(data, settings={"BOLTSEAL_SERVER__ACCESS_LOG": str(wanted).lower()}) as server,
            client_of(server) as client,
        ):
            answer = client.get("/v2/shop/app/tags/list?last=a")
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if '"event":"request"' in line]
        of_the_api = [
            line for line in lines if line["path"] != "/readyz"
        ]  # the request with which this test waited for the start

        assert bool(lines) == wanted
        assert len(of_the_api) == wanted
        for line in of_the_api:
            assert line["request_id"] == answer.headers["x-request-id"]
            assert (line["path"], line["status"]) == ("/v2/shop/app/tags/list", 404)
