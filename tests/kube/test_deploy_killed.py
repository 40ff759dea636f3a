"""kill -9 of a deploy to a cluster at its writes: at each one in `make soak`, at every sixth from a seeded first one otherwise."""

from __future__ import annotations

import signal
import subprocess
import threading
from random import Random

import pytest

from tests.boltseal_process import boltseal_process
from tests.cli import program
from tests.kube.shop import KubeShop, config_map
from tests.soak.scale import IS_FULL, SEED

pytestmark = [pytest.mark.real, pytest.mark.slow]

KILLED_EVERY = 1 if IS_FULL else 6
"""How many writes apart the kills are."""
ENDED = ("healthy", "put-back", "failed", "abandoned")


def killed_deploy(shop: KubeShop, at: int) -> bool:
    """Deploy in a process of its own, which is killed at its write number `at`. Return whether it came so far."""
    seen: list[str] = []
    ready, killed = threading.Event(), threading.Event()
    running: list[subprocess.Popen[str]] = []

    def kill(asked: str) -> None:
        ready.wait()
        if asked.startswith("GET") or "dryRun" in asked or killed.is_set():
            return
        seen.append(asked)
        if len(seen) == at:
            running[0].send_signal(signal.SIGKILL)
            running[0].wait()
            killed.set()

    shop.api.on_request = kill
    words = ("deploy", "-f", "app.yaml", "--wait", "60s", "--kube", "prod")
    environment = program.clean_environment(shop.environment)
    with boltseal_process(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=shop.folder,
    ) as process:
        running.append(process)
        ready.set()
        process.wait(300)
    shop.api.on_request = lambda _: None
    return killed.is_set()


@pytest.mark.parametrize("after", ["resume", "rollback", "deploy"])
def test_a_killed_deploy_is_continued_or_gone_back_from(shop: KubeShop, after: str) -> None:
    """After kill -9 at any write, `--resume` ends what was begun, `rollback` restores what ran, and a deploy replaces it."""
    shop.write("1.0", config_map("old", a="1"), job="1.0")
    assert shop.deploy().code == 0
    at, version = Random(f"{SEED} {after}").randint(1, KILLED_EVERY), 2  # noqa: S311 - no secret
    while True:
        name = f"{version}.0"
        shop.write(name, job=name)
        if not killed_deploy(shop, at):
            break
        before = shop.releases()
        unfinished = [each["ref"] for each in before if each["status"].startswith("unfinished")]
        if after == "resume":
            done = shop.run("deploy", "--resume", "--kube", "prod", "-p", "shop")
            assert done.code == (0 if unfinished else 1), done.err
        elif after == "rollback":
            done = shop.run("rollback", "--kube", "prod", "-p", "shop")
            if unfinished:
                assert done.code == 0, done.err
            assert len(shop.releases()) >= len(before)
            shop.run("release", "hold", "--end", "--kube", "prod", "-p", "shop")
        if after != "rollback":
            done = shop.deploy()
            assert (done.code, shop.running()) == (0, name), (at, done.err)
        states = [each["status"] for each in shop.releases()]
        assert all(each in ENDED for each in states), (at, states)
        at, version = at + KILLED_EVERY, version + 1

    assert at > 6, "the deploy has that many writes"
    assert shop.api.names("ConfigMap") == []
    assert len(shop.api.names("Job")) <= 1
    assert "boltseal.shop.lock" not in shop.api.names("Secret")
