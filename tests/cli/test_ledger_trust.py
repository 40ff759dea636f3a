"""`boltseal ledger trust`, and commands that resolve tags and check the ledger against the stored checkpoint."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from boltseal.server.storage.ledger_key import LedgerKeys
from tests import servers
from tests.cli import program
from tests.fakes.ledger import signing_key
from tests.images import image, push
from tests.polling import until_signed
from tests.ports import free_port
from tests.servers import Server

REF = "shop/app:1.4.2"
KEY = signing_key()
OTHER = "localhost:5000"


def test_a_key_is_pinned_listed_and_forgotten() -> None:
    """A key is pinned, listed and forgotten without contacting the registry."""
    given = program.call("ledger", "trust", OTHER, str(KEY.verifier))
    listed = program.call("ledger", "trust", "--json")
    again = program.call("ledger", "trust", OTHER, str(KEY.verifier))
    forgotten = program.call("ledger", "trust", OTHER, "--forget")

    assert (given.code, again.code, forgotten.code) == (0, 0, 0)
    assert listed.json["results"][0]["key"] == str(KEY.verifier)
    assert program.call("ledger", "trust", OTHER).code == 1
    assert program.call("ledger", "trust").out == ""


def test_a_pinned_key_is_replaced_only_with_replace() -> None:
    """Replacing a pinned key without --replace is exit code 1."""
    program.call("ledger", "trust", OTHER, str(KEY.verifier))
    other = str(signing_key("z").verifier)
    refused, replaced = (
        program.call("ledger", "trust", OTHER, other),
        program.call("ledger", "trust", OTHER, other, "--replace"),
    )

    assert (refused.code, replaced.code) == (1, 0)
    assert "--replace" in refused.err


def test_an_invalid_key_is_refused() -> None:
    """A key with a missing letter is refused, because its ID does not match."""
    key = str(KEY.verifier)
    run = program.call("ledger", "trust", OTHER, key.replace(KEY.verifier.key_id.hex(), "00000000"))

    assert run.code == 2
    assert "key ID" in run.err


@pytest.mark.parametrize("host", ["shop/app", "*", "a b", ""])
def test_an_invalid_registry_is_refused(host: str) -> None:
    """An invalid registry is a usage error."""
    assert program.call("ledger", "trust", host, str(KEY.verifier)).code == 2


def publish(server: Server, tag: str) -> None:
    asyncio.run(_publish(server, tag))


async def _publish(server: Server, tag: str) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await push(client, "shop/app", tag, image(tag))
        await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)


def trusted_key(server: Server) -> str:
    key = LedgerKeys(server.folder.with_name(f"{server.folder.name}.keys")).key()
    assert key is not None
    return str(key.verifier)


def asked(address: str, tmp_path: Path) -> dict[str, Callable[[], program.Run]]:
    """Return the runs of all commands that resolve a tag."""
    project = tmp_path / "project"
    project.mkdir(exist_ok=True)
    (project / "compose.yaml").write_text(f"services: {{web: {{image: '{address}/{REF}'}}}}\n")
    ref = f"{address}/{REF}"
    return {
        "digest": lambda: program.call("digest", ref),
        "check": lambda: program.call("check", ref),
        "tags": lambda: program.call("tags", f"{address}/shop/app"),
        "inspect": lambda: program.call("inspect", ref),
        "compare": lambda: program.call("compare", ref, ref),
        "copy": lambda: program.call("copy", ref, f"oci:{tmp_path / 'layout'}:app"),
        "lock": lambda: program.call("lock", "--project", project),
        "verify": lambda: program.call("verify", "--project", project),
    }


@pytest.mark.slow
def test_a_restored_old_ledger_is_reported_by_every_command_that_resolves_a_tag(tmp_path: Path) -> None:
    """Each command that resolves a tag reports a restored old ledger, if this client has seen a newer checkpoint."""
    data, copy, port = tmp_path / "data", tmp_path / "copy", free_port()
    with servers.boltseal(data, port=port) as server:
        publish(server, "1.4.2")
        first = program.call("digest", f"{server.address}/{REF}")
    shutil.copytree(data, copy)
    shutil.copytree(tmp_path / "data.keys", tmp_path / "copy.keys")
    with servers.boltseal(data, port=port) as server:
        publish(server, "1.4.3")
        trusted = program.call("ledger", "trust", server.address, trusted_key(server))
        strict = program.call("digest", "--strict", f"{server.address}/{REF}")
        held = {verb: ask().code for verb, ask in asked(server.address, tmp_path).items()}
    with servers.boltseal(copy, port=port) as server:
        fields = {verb: ask() for verb, ask in asked(server.address, tmp_path).items()}
    gone = {verb: ask() for verb, ask in list(asked(f"127.0.0.1:{port}", tmp_path).items())[:3]}

    assert first.code == trusted.code == strict.code == 0
    assert "first use" in first.err
    assert "first use" not in strict.err
    assert held == dict.fromkeys(held, 0) | {"check": 1}
    assert {verb: run.code for verb, run in fields.items()} == dict.fromkeys(held, 1)
    assert all("cut back" in run.err and "evidence" in run.err for run in fields.values())
    assert all(run.out == "" for run in fields.values())
    assert {verb: run.code for verb, run in gone.items()} == dict.fromkeys(gone, 3)
    assert len(list((Path(os.environ["BOLTSEAL_STATE"]) / "evidence").iterdir())) == 1


@pytest.mark.slow
def test_strict_refuses_a_registry_without_a_pinned_key(server: Server) -> None:
    """With --strict an unpinned registry could not be checked, and the message says what to do."""
    publish(server, "1.4.2")
    refused = program.call("digest", "--strict", f"{server.address}/{REF}")

    assert (refused.code, refused.out) == (3, "")
    assert "boltseal ledger key" in refused.err
