"""`boltseal ledger monitor`, with a listening registry."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests import servers
from tests.boltseal_process import BoltsealProcess
from tests.cli import program
from tests.fakes.ledger import signing_key
from tests.images import image, push
from tests.polling import until_signed
from tests.ports import free_port

pytestmark = pytest.mark.slow


def publish(url: str, *tags: str) -> None:
    async def run() -> None:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            for tag in tags:
                answer = await push(client, "shop/app", tag, image(tag))
                await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)

    asyncio.run(run())


def test_each_round_reads_the_settings_again(tmp_path: Path) -> None:
    """A settings file that is changed while `--every` repeats is used, and one that became invalid ends the command."""
    settings = tmp_path / "empty-home/boltseal/boltseal.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[client]\n")
    with servers.boltseal(tmp_path / "data") as server:
        publish(server.url, "1.4.2")
        following = BoltsealProcess(
            ["ledger", "monitor", server.url, "--every", "1s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=program.clean_environment(),
        )
        assert following.stdout is not None
        first = following.stdout.readline()
        settings.write_text("[clients]\n")
        _, errors = following.communicate(timeout=program.TIMEOUT_S)

    assert first
    assert following.returncode == 2
    assert "unknown table" in errors


def test_a_registry_is_followed_from_run_to_run(tmp_path: Path) -> None:
    """Each run prints one line; a tag changed in the database is exit code 1, an unreachable registry 3."""
    data, state, port = tmp_path / "data", tmp_path / "state", free_port()
    with servers.boltseal(data, port=port) as server:
        publish(server.url, "1.4.1", "1.4.2")
        key = LedgerKeys(tmp_path / "data.keys").key()
        assert key is not None
        asked = ("ledger", "monitor", server.url, "--state", state, "--key", str(key.verifier), "--tags")
        first = program.call(*asked)
        publish(server.url, "1.4.3")
        second = program.call(*asked, "--json")
        other_key = program.call(*asked[:5], "--key", str(signing_key("z", key.name).verifier))
    with closing(sqlite3.connect(data / DATABASE_NAME)) as database:
        (other,) = database.execute("SELECT digest FROM tag WHERE name = '1.4.1'").fetchone()
        database.execute("UPDATE tag SET digest = ?, canonical = ? WHERE name = '1.4.3'", (other, other))
        database.commit()
    with servers.boltseal(data, port=port, path="/healthz") as server:
        forged = program.call(*asked)
    gone = program.call(*asked)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.out == f"{server.url}: 4 entries, 4 of them new, 2 names, 2 tags compared: holds\n"
    assert second.json["results"][0] | {"size": 5, "read": 1, "names": 3, "compared": 3} == second.json["results"][0]
    assert (other_key.code, forged.code, gone.code) == (1, 1, 3)
    assert "shop/app:1.4.3: the tag resolves to" in forged.err


def test_the_cron_line_of_the_docs_finds_a_changed_row(tmp_path: Path) -> None:
    """Without a flag every tag is compared once in 24 runs, also one that has not changed for long."""
    data, state = tmp_path / "data", tmp_path / "state"
    with servers.boltseal(data) as server:
        publish(server.url, "1.0.0", "1.0.1")
        key = LedgerKeys(tmp_path / "data.keys").key()
        assert key is not None
        cron = ("ledger", "monitor", server.url, "--state", state, "--key", str(key.verifier))
        publish(server.url, *(f"2.0.{number}" for number in range(101)))  # the first tags are not recent any more
        first = program.call(*cron)
        with closing(sqlite3.connect(data / DATABASE_NAME, isolation_level=None)) as database:
            (other,) = database.execute("SELECT digest FROM tag WHERE name = '1.0.1'").fetchone()
            database.execute("UPDATE tag SET digest = ?, canonical = ? WHERE name = '1.0.0'", (other, other))
        runs = [first]
        while runs[-1].code == 0 and len(runs) < 25:
            runs.append(program.call(*cron))
        again = program.call(*cron)

    assert first.code == 0
    assert runs[-1].code == again.code == 1
    assert "shop/app:1.0.0: the tag resolves to" in again.err


def test_a_registry_that_cannot_be_reached_is_named_with_the_reason(tmp_path: Path) -> None:
    """A registry that does not answer could not be checked; the error does not say that it has no ledger."""
    result = program.call("ledger", "monitor", f"http://127.0.0.1:{free_port()}", "--state", tmp_path / "state")

    assert result.code == 3
    assert "Connection refused" in result.err
    assert "shows no ledger" not in result.err
