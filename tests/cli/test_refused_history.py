"""`boltseal history --refused` says who tried to overwrite a tag, from where, and with what."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.cli import program
from tests.images import image, push
from tests.polling import wait_until
from tests.servers import Server

ONE, TWO = image("one"), image("two")
pytestmark = pytest.mark.slow


def push_all(server: Server) -> list[int]:
    """Push a version, then other content under the same tag twice."""

    async def run() -> list[int]:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            return [(await push(client, "shop/app", "1.4.2", each)).status_code for each in (ONE, TWO, TWO)]

    return asyncio.run(run())


def test_refused_pushes_are_listed_for_a_tag_and_for_a_repository(server: Server) -> None:
    """The two digests, the free tag and the number are in the table and in --json; an open registry has no administrators."""
    empty = program.call("history", f"{server.address}/shop/app", "--refused")
    assert push_all(server) == [201, 409, 409]

    def rows(reference: str) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = program.call("history", reference, "--refused", "--json").json["results"]
        return results

    wait_until(
        lambda: sum(row["times"] for row in rows(f"{server.address}/shop/app")) == 2, "both refused pushes are counted"
    )
    of_tag, of_other = rows(f"{server.address}/shop/app:1.4.2"), rows(f"{server.address}/shop/app:1.4.3")
    shown = program.call("history", f"{server.address}/shop/app:1.4.2", "--refused")
    (row,) = of_tag

    assert (empty.code, empty.out) == (0, "")
    assert "no refused pushes" in empty.err
    assert (row["ref"], row["status"], row["reason"]) == (f"{server.address}/shop/app:1.4.2", "refused", "sealed")
    assert (row["pushed"], row["digest"], row["free"]) == (TWO.digest, ONE.digest, ["1.4.3"])
    assert (row["by"], row["address"], row["times"]) == ("anonymous", None, 2)
    assert shown.code == 0
    assert TWO.digest in shown.out
    assert ONE.digest in shown.out
    assert of_other == []


def test_a_reference_with_a_digest_is_refused(server: Server) -> None:
    """Refused pushes belong to tags; the message says what to write instead."""
    result = program.call("history", f"{server.address}/shop/app@{ONE.digest}", "--refused")

    assert result.code == 2
    assert f"{server.address}/shop/app:TAG" in result.err
