"""What the commands print about a tag that is not sealed yet, against a registry that really listens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.images import image, push
from tests.polling import until_signed

pytestmark = pytest.mark.slow


@pytest.fixture
async def ref(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A tag that settles for an hour, in a registry that has signed it."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    with servers.boltseal(tmp_path / "data", config='[[rule]]\nsettle = "1h"\n') as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            await push(client, "shop/app", "1.4.2", image("app"))
            await until_signed(client, 3)
        yield f"{server.address}/shop/app:1.4.2"


async def test_check_says_that_a_tag_is_settling(ref: str) -> None:
    """`check` reports a settling tag as taken, with the time of its seal, in text and in JSON."""
    result = program.run("check", ref)
    (found,) = program.run("check", ref, "--json").json["results"]

    assert result.code == 1
    assert f"it is settling: not sealed before {found['settles']}" in result.out
    assert found["status"] == "taken"


async def test_inspect_and_tags_say_that_a_tag_is_settling(ref: str) -> None:
    """`inspect` and `tags` report a settling tag; `tags` prints only names to standard output and the note to standard error."""
    inspected = program.run("inspect", ref)
    (shown,) = program.run("inspect", ref, "--json").json["results"]
    listed = program.run("tags", ref.rpartition(":")[0])
    (tag,) = program.run("tags", ref.rpartition(":")[0], "--json").json["results"]

    assert f"the tag is not sealed before {shown['settles']}" in inspected.out
    assert (listed.out, listed.err) == ("1.4.2\n", "settling, not sealed yet: 1.4.2\n")
    assert (shown["status"], tag["status"]) == ("settling", "settling")


async def test_inspect_resolves_the_tag_once(ref: str) -> None:
    """`inspect` reads digest and seal time of a tag from one answer, so it sends one HEAD for the tag."""
    traced = program.run("-v", "inspect", ref)
    asked = [line for line in traced.err.splitlines() if " HEAD " in f" {line}" and "/manifests/1.4.2" in line]

    assert traced.code == 0
    assert len(asked) == 1, traced.err


async def test_a_settling_tag_has_a_history_and_no_receipt(ref: str, tmp_path: Path) -> None:
    """`ledger receipt` refuses a settling tag, because its entry does not seal it."""
    events = program.run("history", ref, "--json").json["results"]
    receipt = program.run("ledger", "receipt", ref, "-o", tmp_path / "receipt")

    assert [(each["status"], each["mode"]) for each in events] == [("created", "settling")]
    assert receipt.code != 0
    assert "is settling, so it has no receipt" in receipt.err
    assert not (tmp_path / "receipt").exists()
