"""`boltseal history` of mirrored names: the mirror's observations, proven to be in its log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.entry import format_time
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.store_factory import now_us
from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.images import image
from tests.polling import is_signed, wait_until
from tests.project.bases.layered import layered
from tests.server.mirror.mirrors import NAME
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_personal_settings")]


@pytest.fixture
def fake() -> Iterator[FakeUpstream]:
    """An upstream in its own thread, because this process's commands wait for it."""
    with FakeUpstream().listening_in_thread() as listening:
        yield listening


@pytest.fixture
def mirror(tmp_path: Path, fake: FakeUpstream) -> Iterator[Server]:
    config = f'[[upstream]]\nname = "{NAME}"\nurl = "http://{fake.authority}"\nfresh = "0s"\n'
    with boltseal_in_thread(tmp_path / "data", config) as server:
        yield server


def pull(server: Server, tag: str = "1.4.2", repository: str = "team/app") -> None:
    httpx2.get(f"{server.url}/v2/{NAME}/{repository}/manifests/{tag}", trust_env=False)


def wait_until_signed(server: Server, size: int) -> None:
    """Wait until the checkpoint of the observations covers so many entries."""
    url = f"{server.url}/ledger/observations/checkpoint"
    wait_until(lambda: is_signed(httpx2.get(url, trust_env=False), size), f"{size} observations are signed")


def test_observations_are_listed_and_proven(mirror: Server, fake: FakeUpstream) -> None:
    """Observations (seen, moved, deleted) are proven in a signed log, whose checkpoint this client then stores."""
    first = fake.publish("team/app", "1.4.2", image("one"))
    pull(mirror)
    second = fake.publish("team/app", "1.4.2", image("two"))
    pull(mirror)
    del fake.manifests["team/app"]["1.4.2"]
    pull(mirror)
    wait_until_signed(mirror, 4)
    ref = f"{mirror.address}/{NAME}/team/app:1.4.2"
    result, text = program.call("history", ref, "--json"), program.call("history", ref)
    results = result.json["results"]

    assert (result.code, text.code) == (0, 0), result.err + result.out
    assert [(one["status"], one["digest"]) for one in results] == [
        ("observed", first.digest),
        ("observed", second.digest),
        ("gone", ""),
    ]
    assert all(one["proven"] for one in results)
    assert f"mirror:{NAME}" in text.out
    assert "3 entries found in the ledger of 4" in text.err


def test_a_mirrored_base_that_moved_is_found_by_the_mirrors_log(mirror: Server, fake: FakeUpstream) -> None:
    """A moved base that was pulled through the mirror is found by its log, without a base annotation and at the first check."""
    for repository, base in (("base/os", layered("o")), ("base/rt", layered("or"))):
        fake.publish(repository, "latest", base)
        pull(mirror, "latest", repository)
        httpx2.get(f"{mirror.url}/v2/{NAME}/{repository}/blobs/{base.config.digest}", trust_env=False)
    fake.publish("team/app", "1.4.2", layered("orX", created=format_time(now_us())))
    fake.publish("base/rt", "latest", layered("os"))
    for repository, tag in (("base/rt", "latest"), ("team/app", "1.4.2")):
        pull(mirror, tag, repository)
    wait_until_signed(mirror, 5)
    names = [f"{mirror.address}/{NAME}/{name}" for name in ("base/os:latest", "base/rt:latest", "team/app:1.4.2")]
    app = program.call("outdated", *names, "--json").json["results"][-1]

    assert (app["status"], app["base"], app["how"]) == ("outdated", names[1], "proven")
    assert app["built_on"] == layered("or").digest


def test_a_changed_observation_is_broken(mirror: Server, fake: FakeUpstream) -> None:
    """An observation changed in the mirror's database is reported as broken."""
    fake.publish("team/app", "1.4.2", image("one"))
    pull(mirror)
    wait_until_signed(mirror, 2)
    with closing(sqlite3.connect(mirror.folder / DATABASE_NAME)) as connection, connection:
        connection.execute(
            """UPDATE observation SET line = CAST(replace(CAST(line AS TEXT), '"tag":"1.4.2"', '"tag":"1.4.3"') AS BLOB),
            tag = '1.4.3' WHERE idx = 1"""
        )
    result = program.call("history", f"{mirror.address}/{NAME}/team/app:1.4.3", "--json")

    assert result.code == 1
    assert any("not in the signed ledger" in (one["reason"] or "") for one in result.json["results"])


def test_the_key_of_a_mirrors_log_can_be_pinned(mirror: Server, fake: FakeUpstream) -> None:
    """The key of a mirror's log is pinned beside the ledger's, under its own name; a wrong key is a broken log."""
    fake.publish("team/app", "1.4.2", image("one"))
    pull(mirror)
    wait_until_signed(mirror, 2)
    keys = mirror.folder.with_name(f"{mirror.folder.name}.keys")
    mine, ledgers = (LedgerKeys(keys, name=name).key() for name in ("observations", "ledger"))
    assert mine is not None
    assert ledgers is not None
    ref = f"{mirror.address}/{NAME}/team/app:1.4.2"
    given = program.call("ledger", "trust", f"{mirror.address}/observations", str(mine.verifier))
    result = program.call("history", ref)
    listed = program.call("ledger", "trust", "--json").json["results"]
    wrong = program.call("ledger", "trust", f"{mirror.address}/observations", str(ledgers.verifier), "--replace")
    broken = program.call("history", ref)

    assert (given.code, result.code, wrong.code, broken.code) == (0, 0, 0, 1)
    assert "signed by the trusted key" in result.err
    assert f"{mirror.address}/observations" in [one["ref"] for one in listed]
