"""Faults at the requests of a rollback, and of a deploy that removes objects.

The faults are kill -9, an expired login, a deleted namespace, a quota, and the command of another person.

A first run finds the requests that a command sends. Then the command runs once for each chosen request, from the same state of cluster
and machine, and the fault happens when that request arrives. Kills are at each write; the other faults at some requests, at
all of them in `make soak`.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from boltseal.deploy.release_file import parse_stored
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, last_good
from tests.boltseal_process import boltseal_process
from tests.cli import program
from tests.kube.api_server import TOKEN
from tests.kube.https_listener import Fault
from tests.kube.shop import KubeShop, config_map, version_in
from tests.soak.scale import IS_FULL, SEED

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROLLBACK = ("rollback", "--kube", "prod", "-p", "shop")
REMOVAL = ("deploy", "-f", "app.yaml", "--wait", "60s", "--kube", "prod")
RESUME = ("deploy", "--resume", "--kube", "prod", "-p", "shop")
COMMANDS = {"rollback": ROLLBACK, "removal": REMOVAL}
LOCK = "boltseal.shop.lock"
OTHERS_EVERY = 1 if IS_FULL else 7
"""How many requests apart an expired login and a deleted namespace are."""

State = tuple[str, list[str]]
SECOND: State = ("2.0", ["b", "c"])
DONE: dict[str, State] = {"rollback": ("1.0", ["a", "b"]), "removal": ("3.0", [])}


@dataclass
class Saved:
    """The state of a shop's cluster and machine, to begin from it again."""

    shop: KubeShop
    kept: Path
    objects: Any = field(init=False)
    controllers: Any = field(init=False)

    def __post_init__(self) -> None:
        api = self.shop.api
        self.objects = copy.deepcopy(api.objects)
        self.controllers = copy.deepcopy((api.controllers.since, api.controllers.jobs))
        shutil.copytree(self._state, self.kept)

    @property
    def _state(self) -> Path:
        return Path(self.shop.environment["BOLTSEAL_STATE"])

    def restore(self) -> None:
        """Bring cluster and machine back to this state."""
        api = self.shop.api
        with api.lock:
            api.faults.clear()
            api.asked.clear()
            api.objects = copy.deepcopy(self.objects)
            api.controllers.since, api.controllers.jobs = copy.deepcopy(self.controllers)
        shutil.rmtree(self._state)
        shutil.copytree(self.kept, self._state)


@pytest.fixture
def saved(shop: KubeShop, tmp_path: Path, request: pytest.FixtureRequest) -> Saved:
    """Two releases, of which the second removed a ConfigMap; for a removal, manifests that have none of them any more."""
    shop.write("1.0", config_map("a", v="1"), config_map("b", v="1"), job="1.0")
    assert shop.deploy().code == 0
    shop.write("2.0", config_map("b", v="2"), config_map("c", v="2"), job="2.0")
    assert shop.deploy().code == 0
    assert state(shop) == SECOND
    if request.node.callspec.params["command"] == "removal":
        shop.write("3.0")
    return Saved(shop, tmp_path / "kept")


def state(shop: KubeShop) -> State:
    """Return what the cluster has: the version of the Deployment, and the ConfigMaps."""
    return shop.running(), shop.api.names("ConfigMap")


def is_request(asked: str) -> bool:
    """Return whether a request is one of boltseal's, and not one by which kubectl learns what the API server can do."""
    path = asked.partition(" ")[2]
    return "/namespaces/" in path


def is_write(asked: str) -> bool:
    """Return whether a request changes the cluster."""
    return is_request(asked) and not asked.startswith("GET") and "dryRun" not in asked


def requests_of(saved: Saved, command: str, which: Callable[[str], bool]) -> int:
    """Return how many such requests a command sends without a fault, after a check of how it ends."""
    saved.restore()
    done = saved.shop.run(*COMMANDS[command])
    assert done.code == 0, done.err
    check_consistent(saved.shop)
    assert state(saved.shop) == DONE[command]
    return sum(map(which, saved.shop.api.asked))


@contextmanager
def at_request(
    shop: KubeShop, number: int, which: Callable[[str], bool], call: Callable[[str], None]
) -> Iterator[list[str]]:
    """Call `call` when request `number` of these arrives. Yield a list that has the request afterwards."""
    seen: list[str] = []
    reached: list[str] = []

    def notice(asked: str) -> None:
        if which(asked):
            seen.append(asked)
            if len(seen) == number:
                reached.append(asked)
                call(asked)

    shop.api.on_request = notice
    try:
        yield reached
    finally:
        shop.api.on_request = lambda _: None


def killed(shop: KubeShop, words: Sequence[str], number: int, *, carried_out: bool) -> str:
    """Run a command and kill -9 it at its write `number`, which is carried out or not. Return that request."""
    running: list[subprocess.Popen[Any]] = []
    ready = threading.Event()

    def kill(asked: str) -> None:
        ready.wait()
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        if not carried_out:
            shop.api.faults.append(Fault(re.escape(asked), times=1))

    with (
        at_request(shop, number, is_write, kill) as reached,
        boltseal_process(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=program.clean_environment(shop.environment),
            cwd=shop.folder,
        ) as process,
    ):
        running.append(process)
        ready.set()
        assert process.wait(300) == -signal.SIGKILL
    shop.api.faults.clear()
    return reached[0]


def root_of(shop: KubeShop) -> Path:
    """Return the folder of the releases in the namespace that is there now."""
    uid = (shop.api.get("Namespace", "shop", "") or {})["metadata"]["uid"]
    (root,) = Path(shop.environment["BOLTSEAL_ENGINES"]).glob(f"{uid}-*")
    return root


def releases(shop: KubeShop) -> tuple[Release, ...]:
    """Return the releases on this machine."""
    return ReleaseFolder(root_of(shop), "shop").all()


def check_consistent(shop: KubeShop) -> None:
    """Check that all releases have ended, no lock is left, and the cluster has exactly the objects of the one that runs.

    The cluster's records are those of the machine.
    """
    stored = ReleaseFolder(root_of(shop), "shop").stored()
    recorded = [each.release for each in stored]
    assert [each.number for each in recorded if each.unfinished] == []
    good = last_good(recorded)
    assert good is not None
    contents = next(each.contents for each in stored if each.release.number == good.number)
    assert contents is not None
    expected = {
        (each["kind"], each["metadata"]["name"]): _images(each)
        for each in json.loads(contents.compose)["items"]
        if each["kind"] != "Job"
    }
    found = {
        (kind, name): _images(shop.api.get(kind, name) or {})
        for kind in ("ConfigMap", "Deployment", "Service")
        for name in shop.api.names(kind)
    }
    assert found == expected
    secrets = [each for each in shop.api.names("Secret") if re.fullmatch(r"boltseal\.shop\.\d+", each)]
    copies = [
        parse_stored(gzip.decompress(base64.b64decode((shop.api.get("Secret", each) or {})["data"]["release"])))
        for each in secrets
    ]
    assert sorted(copies, key=lambda each: each.release.number) == list(stored)
    assert LOCK not in shop.api.names("Secret")


def _images(document: dict[str, Any]) -> list[str]:
    spec = document.get("spec", {}).get("template", {}).get("spec", {})
    return [version_in(each["image"]) for each in spec.get("containers", ())]


@pytest.mark.parametrize("command", COMMANDS)
def test_kill_at_each_write(saved: Saved, command: str) -> None:
    """After kill -9 at any write one more command ends in a consistent state: `--resume`, or the same command again."""
    shop, words = saved.shop, COMMANDS[command]
    writes = requests_of(saved, command, is_write)
    assert writes > 10
    for number in range(1, writes + 1):
        for again in (False, True) if IS_FULL else (number % 2 == 0,):
            for carried_out in (False, True) if IS_FULL else (number % 4 < 2,):
                saved.restore()
                request = killed(shop, words, number, carried_out=carried_out)
                began, unfinished = len(releases(shop)) > 2, releases(shop)[-1].unfinished
                done = shop.run(*(words if again else RESUME))
                where = (number, request, carried_out, again, began, unfinished, done.out, done.err)

                check_consistent(shop)
                assert (done.code, state(shop)) == after_kill(command, began, unfinished, again=again), where


def after_kill(command: str, began: bool, unfinished: bool, *, again: bool) -> tuple[int, State]:
    """Return how one more command ends. `began`: whether the killed one recorded its release."""
    if again and command == "removal":
        return 0, DONE[command]
    if not began:
        return (0, DONE[command]) if again else (1, SECOND)
    if again and unfinished:
        return 0, SECOND  # a rollback from an unfinished release goes to the one that ran before
    return (0 if unfinished else 1), DONE[command]  # 1: nothing is left to resume, or to go back from


@pytest.mark.parametrize("command", COMMANDS)
def test_a_login_that_expires_at_a_request(saved: Saved, command: str) -> None:
    """An unfinished command never ends as a success; after a new login one more command completes what was begun."""
    shop, words = saved.shop, COMMANDS[command]
    for number in chosen(saved, command):
        saved.restore()
        with at_request(shop, number, is_request, lambda _: setattr(shop.api, "token", "another")) as reached:
            lost = program.run(*words, environment=shop.environment, cwd=shop.folder)
        shop.api.token = TOKEN
        began, unfinished = len(releases(shop)) > 2, releases(shop)[-1].unfinished
        where = (number, reached, began, unfinished, lost.out, lost.err)
        assert lost.code == (0 if began and not unfinished else 3), where
        assert "nauthorized" in lost.err, where
        assert lost.code == 0 or "log in to the cluster again" in lost.err, where
        done = shop.run(*(RESUME if unfinished else words))
        check_consistent(shop)
        assert state(shop) == DONE[command], (where, done.out, done.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_namespace_that_is_deleted_at_a_request(saved: Saved, command: str) -> None:
    """The command ends with a message, and makes nothing outside; a deploy into a namespace of this name begins anew."""
    shop, words = saved.shop, COMMANDS[command]
    version = DONE[command][0] if command == "removal" else SECOND[0]
    for number in chosen(saved, command):
        saved.restore()
        with at_request(shop, number, is_request, lambda _: shop.api.delete_namespace("shop")) as reached:
            lost = shop.run(*words)
        where = (number, reached, lost.out, lost.err)
        assert lost.code in (1, 3), where
        assert "internal error" not in lost.err, where
        assert {key[2] for key in shop.api.objects} == {""}, where
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        shop.api.put("v1", "Namespace", "", "shop", namespace)
        done = shop.run(*REMOVAL)
        check_consistent(shop)
        assert (done.code, shop.running(), len(releases(shop))) == (0, version, 1), (where, done.out, done.err)


def chosen(saved: Saved, command: str) -> range:
    """Return the numbers of requests, from a seeded first one, without the last one: it removes the lock."""
    first = Random(f"{SEED} {command}").randint(1, OTHERS_EVERY)  # noqa: S311 - no secret
    return range(first, requests_of(saved, command, is_request), OTHERS_EVERY)


def quota(shop: KubeShop, counted: str, most: int) -> None:
    """Limit how many objects of a kind the namespace may have."""
    document = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {}, "spec": {"hard": {counted: str(most)}}}
    shop.api.put("v1", "ResourceQuota", "shop", "few", document)


@pytest.mark.parametrize("command", ["rollback"])
def test_a_quota_that_a_rollback_exceeds_restores_what_ran(saved: Saved, command: str) -> None:
    """A dry run compares each object alone with the quota, so that the refusal comes in the middle."""
    shop = saved.shop
    quota(shop, "count/configmaps", 2)
    refused = shop.run(*COMMANDS[command])

    assert refused.code == 1, (refused.out, refused.err)
    assert "exceeded quota: few" in refused.out + refused.err
    check_consistent(shop)
    assert state(shop) == SECOND


@pytest.mark.parametrize("command", ["removal"])
def test_a_quota_in_the_middle_of_a_deploy_takes_back_what_was_applied(saved: Saved, command: str) -> None:
    """Of two new objects the first is created and the second refused: both are gone afterwards."""
    shop = saved.shop
    quota(shop, "count/configmaps", 3)
    shop.write("3.0", *(config_map(name, v="3") for name in "bcde"))
    refused = shop.run(*COMMANDS[command])

    assert refused.code == 1, (refused.out, refused.err)
    assert 'configmaps "e" is forbidden: exceeded quota: few' in refused.out + refused.err
    assert "release 3 of shop failed; release 2 runs again" in refused.out
    check_consistent(shop)
    assert state(shop) == SECOND


@pytest.mark.parametrize("command", ["removal"])
def test_a_quota_of_secrets(saved: Saved, command: str) -> None:
    """If it forbids the lock, nothing is deployed; if it forbids the record, the release waits on this machine."""
    shop = saved.shop
    secrets = len(shop.api.names("Secret"))
    quota(shop, "count/secrets", secrets)
    refused = shop.run(*COMMANDS[command])
    quota(shop, "count/secrets", secrets + 1)
    before = state(shop)
    here = shop.run(*COMMANDS[command])
    quota(shop, "count/secrets", secrets + 2)
    again = shop.run(*COMMANDS[command])

    assert (refused.code, before, here.code, again.code) == (1, SECOND, 0, 0), (refused.err, here.err, again.err)
    assert "exceeded quota: few" in refused.err
    assert "release 3 of shop is only on this machine so far" in here.err
    check_consistent(shop)
    assert state(shop) == DONE[command]


def _noted(runs: list[program.Run], call: Callable[[], program.Run], _asked: str) -> None:
    runs.append(call())


@pytest.mark.parametrize("command", COMMANDS)
def test_another_person_at_a_write(saved: Saved, command: str, tmp_path: Path) -> None:
    """While one person's command runs, that of another person is refused; two that begin at once leave one consistent state."""
    shop, mine = saved.shop, COMMANDS[command]
    theirs = next(words for name, words in COMMANDS.items() if name != command)
    other = {**shop.environment, "BOLTSEAL_STATE": str(tmp_path / "b"), "BOLTSEAL_ENGINES": str(tmp_path / "b/engines")}
    writes = requests_of(saved, command, is_write)
    for number in (2, writes // 2, writes - 1):
        saved.restore()
        refused: list[program.Run] = []
        call = partial(program.run, *theirs, environment=other, cwd=shop.folder)
        with at_request(shop, number, is_write, partial(_noted, refused, call)):
            done = shop.run(*mine)
        assert (done.code, refused[0].code) == (0, 3), (done.err, refused[0].err)
        assert "is being deployed" in refused[0].err
        check_consistent(shop)
        assert state(shop) == DONE[command]
    saved.restore()
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(program.run, *words, environment=environment, cwd=shop.folder)
            for words, environment in ((mine, shop.environment), (theirs, other))
        ]
    codes = [each.result().code for each in both]
    assert shop.run("release", "ls", "--kube", "prod", "-p", "shop").code == 0
    assert 0 in codes, [each.result().err for each in both]
    assert set(codes) <= {0, 1, 3}, codes
    check_consistent(shop)
