"""`boltseal serve` as a process: metrics of all its workers, and its access log on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import httpx2
import pytest

from boltseal.server.storage.metrics import RunFolder
from tests.polling import wait_until
from tests.server.serve.process import client_of, replaced, workers_of
from tests.servers import boltseal

pytestmark = pytest.mark.slow

ASKED = re.compile(r'boltseal_requests_total\{method="GET",route="Base",status="200"\} (\d+)')


def saved(data: Path, pid: int) -> int:
    """Return the requests in the metrics that the workers have saved."""
    found = RunFolder(data / "run" / str(pid)).others().requests.get(("GET", "Base", 200))
    return found.count if found is not None else 0


def test_any_worker_serves_the_metrics_of_all_current_and_former_workers(tmp_path: Path) -> None:
    """Requests reach different workers and one is killed; no request is counted twice or lost."""
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


def test_the_access_log_has_one_object_a_line(tmp_path: Path) -> None:
    """All lines are written when the server has ended; there are none if it is disabled."""
    for wanted in (True, False):
        data = tmp_path / str(wanted)
        with (
            boltseal(data, settings={"BOLTSEAL_SERVER__ACCESS_LOG": str(wanted).lower()}) as server,
            client_of(server) as client,
        ):
            answer = client.get("/v2/shop/app/tags/list?last=a")
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if '"event":"request"' in line]
        of_the_api = [line for line in lines if line["path"] != "/readyz"]  # by which this test knew that it was up

        assert bool(lines) == wanted
        assert len(of_the_api) == wanted
        for line in of_the_api:
            assert line["request_id"] == answer.headers["x-request-id"]
            assert (line["path"], line["status"]) == ("/v2/shop/app/tags/list", 404)
