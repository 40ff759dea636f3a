"""`boltseal serve` as a process: new rules at SIGHUP, without losing a connection."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import httpx2
import pytest

from tests.serve.process import (
    alive,
    client_of,
    manifest,
    put,
    wait_for,
    workers_of,
)
from tests.servers import boltseal

pytestmark = pytest.mark.slow


def test_sighup_takes_over_new_rules(tmp_path: Path) -> None:
    """Without a restart, without losing a connection, and in every worker."""
    with (
        boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n', workers=2) as server,
        client_of(server) as client,
    ):
        bodies = [manifest(client, "shop/app", words) for words in ("one", "two")]
        before = [put(client, "shop/app:b1", body).status_code for body in bodies]
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: server.log_tail().count("rules read again") == 2)
        after = [put(client, "shop/app:b2", body).status_code for body in bodies]
        bound = put(client, "shop/app:b1", bodies[1]).status_code

    assert before == [201, 409]
    assert after == [201, 201]
    assert bound == 409  # changing the rules never unseals


def test_a_bad_configuration_keeps_the_rules_and_is_told(tmp_path: Path) -> None:
    """The server goes on as it was; whoever asks for its readiness learns that the file is not in force."""
    with (
        boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n') as server,
        client_of(server) as client,
    ):
        server.folder.with_name("data.toml").write_text('[[rule]]\nmode = "frozen"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: "warning" in client.get("/readyz").json())
        bodies = [manifest(client, "shop/app", words) for words in ("one", "two")]
        floats = [put(client, "shop/app:a1", body).status_code for body in bodies]

    assert floats == [201, 201]
    assert "rule 1: mode is" in server.log_tail()


def test_a_replaced_worker_gets_the_rules_in_force(tmp_path: Path) -> None:
    """Not those that the server was started with."""
    with boltseal(tmp_path / "data", config='[[rule]]\ntag = "a*"\nmode = "floating"\n') as server:
        server.folder.with_name("data.toml").write_text('[[rule]]\ntag = "b*"\nmode = "floating"\n', encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: "rules read again" in server.log_tail())
        first = workers_of(server.pid)
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: any(map(alive, set(workers_of(server.pid)) - set(first))))

        def moved() -> bool:
            with contextlib.suppress(httpx2.TransportError), client_of(server) as client:
                return [put(client, "shop/app:b1", manifest(client, "shop/app", w)).status_code for w in "12"] == [
                    201,
                    201,
                ]
            return False

        wait_for(moved)
