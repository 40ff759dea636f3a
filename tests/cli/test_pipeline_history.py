"""`history` and `ledger receipt` say in one sentence which run of which repository published a tag."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.fakes.issuer import Issuer, running_issuer
from tests.images import image, push
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

SENTENCE = f"run 8213 of acme/shop at commit {'3f2a' * 10}"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def shop(tmp_path: Path, issuer: Issuer) -> Iterator[Server]:
    """A registry with acme/shop:1.4.2, which a pipeline pushed; all clients may pull."""
    config = f"[auth]\nanonymous_pull = true\n{issuer.toml()}[ledger]\npublic = true\n"
    with boltseal_in_thread(tmp_path / "data", config) as server:

        async def push_one() -> int:
            auth = httpx2.BasicAuth("oidc", issuer.token())
            async with httpx2.AsyncClient(base_url=f"http://{server.address}", auth=auth) as client:
                return (await push(client, "acme/shop", "1.4.2", image("one"))).status_code

        assert asyncio.run(push_one()) == 201
        yield server


def test_history_says_which_run_published_a_tag(shop: Server) -> None:
    """The sentence stands below the entries, and the fields are in the JSON."""
    reference = f"{shop.address}/acme/shop:1.4.2"
    shown, in_json = program.run("history", reference), program.run("history", reference, "--json")
    (row,) = in_json.json["results"]

    assert shown.code == in_json.code == 0
    assert f"1.4.2 was published by {SENTENCE}" in shown.out.splitlines()
    assert row["by"] == "oidc:ci:repo:acme/shop:ref:refs/tags/v1.4.2"
    assert (row["pipeline"]["repository"], row["pipeline"]["run"]) == ("acme/shop", "8213")


def test_a_receipt_says_which_run_published_a_tag(shop: Server, tmp_path: Path) -> None:
    """A receipt proves the entry, and so which pipeline it is of."""
    file = tmp_path / "shop.tlog-proof"
    written = program.run("ledger", "receipt", f"{shop.address}/acme/shop:1.4.2", "-o", file)
    in_json = program.run("ledger", "receipt", f"{shop.address}/acme/shop:1.4.2", "-o", file, "--json")
    (row,) = in_json.json["results"]

    assert written.code == 0
    assert f"by {SENTENCE}, sealed: entry" in written.out
    assert row["pipeline"]["commit"] == "3f2a" * 10
