"""`boltseal ledger receipt`, with a listening registry, and offline."""

from __future__ import annotations

import asyncio
import tarfile
from io import BytesIO
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.note import COSIGNATURE, SigningKey
from boltseal.server.storage.ledger_key import LedgerKeys
from tests import servers
from tests.cli import program
from tests.fakes.ledger import signing_key
from tests.images import image, index, push
from tests.polling import until_signed

APP = index(image("amd64"), image("arm64"))


def test_help_names_writing_and_verifying() -> None:
    """Help shows how to write a receipt and how to verify it."""
    output = program.call("ledger", "receipt", "--help").out

    assert "IMAGE -o FILE" in output
    assert "verify" in output


def test_a_receipt_without_a_file_shows_the_usage_of_the_command_that_writes_it() -> None:
    """Without a subcommand `write` runs: usage and help are those of `ledger receipt write`, which help lists."""
    run = program.call("ledger", "receipt", "localhost:5000/shop/app:1.4.2")
    shown = program.call("ledger", "receipt", "localhost:5000/shop/app:1.4.2", "--help")
    listed = program.call("ledger", "receipt", "--help")

    assert run.code == 2
    assert "Missing option '-o' / '--output'" in run.err
    assert "Usage: boltseal ledger receipt write [OPTIONS]" in run.err
    assert (shown.code, "--in-toto" in shown.out) == (0, True)
    assert "write" in listed.out


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """A missing receipt file is a usage error."""
    assert program.call("ledger", "receipt", "verify", tmp_path / "x", "--key", str(signing_key().verifier)).code == 2


@pytest.mark.slow
def test_a_receipt_is_verified_offline(tmp_path: Path) -> None:
    """A receipt is verified offline with only the key; each forgery in receipt or key is exit code 1."""

    async def publish(url: str) -> None:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await push(client, "shop/app", "1.4.2", APP)
            await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)

    file = tmp_path / "app.tlog-proof"
    with servers.boltseal(tmp_path / "data") as server:
        asyncio.run(publish(server.url))
        written = program.call("ledger", "receipt", f"{server.address}/shop/app:1.4.2", "-o", file)
        other = program.call("ledger", "receipt", f"{server.address}/shop/app:1.4.2@sha256:{'0' * 64}", "-o", file)
        untagged = program.call("ledger", "receipt", f"{server.address}/shop/app", "-o", file)
    key = LedgerKeys(tmp_path / "data.keys").key()
    assert key is not None
    verify = ("ledger", "receipt", "verify", file, "--key")
    holds = program.call(*verify, str(key.verifier), "--json")
    other_key = program.call(*verify, str(signing_key("z", key.name).verifier))
    witness = SigningKey("witness.example", b"w" * 32, COSIGNATURE).verifier
    unseen = program.call(*verify, str(key.verifier), "--witness", str(witness))
    beside = file.with_name("app.tlog-proof.oci")
    with tarfile.open(beside, "a") as tar:
        member = tarfile.TarInfo(f"blobs/sha256/{APP.digest[7:]}")
        member.size = 2
        tar.addfile(member, BytesIO(b"{}"))
    forged = program.call(*verify, str(key.verifier))

    assert (written.code, other.code, untagged.code) == (0, 1, 2)
    assert "no pinned key verified this" in written.err
    assert holds.json["results"][0] | {"digest": APP.digest, "manifests": 3, "configs": 2} == holds.json["results"][0]
    assert (other_key.code, unseen.code, forged.code) == (1, 1, 1)
    assert "none of the trusted keys signed" in other_key.err
    assert "did not cosign" in unseen.err
    assert "another digest" in forged.err
