"""Each job runs once in a deploy, also if the deploy is killed anywhere and resumed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from boltseal.engines.inventory import ImageStoreKind
from tests.deploy.killable_project import DONE, RUNS, WAITS, Killed, Shop

STARTED = {"condition": "service_started"}


@pytest.fixture
def shop() -> Iterator[Shop]:
    """An empty project."""
    made = Shop(ImageStoreKind.CLASSIC)
    yield made
    made.close()


def write(shop: Shop, services: dict[str, dict[str, Any]]) -> None:
    """Write the project's file."""
    (shop.root / "compose.yaml").write_text(json.dumps({"name": "shop", "services": services}))


def chain(shop: Shop, scale: int = 1) -> dict[str, dict[str, Any]]:
    """Return jobs that depend on each other, one of them not waited for, and services that are replaced in two ways after them."""
    seed, done = {"seed": STARTED}, WAITS["job"]
    after = {**seed, "second": done}
    port = [{"target": 80}]
    return {
        "seed": {"image": shop.publish("seed", DONE)},
        "first": {"image": shop.publish("first", DONE), "depends_on": seed, "scale": scale},
        "second": {"image": shop.publish("second", DONE), "depends_on": {**seed, "first": done}},
        "api": {"image": shop.publish("api", RUNS), "depends_on": after, "ports": port},
        "web": {"image": shop.publish("web", RUNS), "depends_on": {**after, "api": STARTED}},
    }


def started(shop: Shop) -> Counter[str]:
    """Return how often containers were started, by service."""
    return Counter(name.removeprefix("/shop-").rpartition("-")[0] for name in shop.host.fake.started)


def test_a_job_is_not_started_again_by_what_depends_on_it(shop: Shop) -> None:
    """Services that are started one after another start no job again on which they depend."""
    for deploys in (1, 2):
        write(shop, chain(shop))
        assert shop.deploy().release.good
        assert started(shop) == dict.fromkeys(("seed", "first", "second", "api", "web"), deploys)


def test_a_resumed_deploy_does_not_run_a_job_again_that_completed(shop: Shop) -> None:
    """Wherever a deploy is killed, after `deploy --resume` each container of its jobs has run once."""
    write(shop, chain(shop))
    shop.deploy()
    kills = 0
    for steps in range(1, 200):
        write(shop, chain(shop, scale=2))
        shop.host.fake.started.clear()
        shop.faults.left = steps
        try:
            shop.deploy()
        except Killed:
            kills += 1
            if any(each.unfinished for each in shop.releases.all()):
                shop.command(lambda deployer: deployer.resume())
            else:  # killed before anything was recorded
                shop.faults.left = None
                shop.deploy()
        else:
            break
        finally:
            shop.faults.left = None
        found = started(shop)

        assert (found["first"], found["second"]) == (2, 1), f"killed at step {steps}"

    assert kills > 30
