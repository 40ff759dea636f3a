"""Names in `outdated`: tags with which boltseal keeps images are never shown, scanned or named as a base."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli.program import Run, call, run
from tests.fakes.engine import FakeEngine
from tests.images import Document
from tests.project.bases.layered import layered
from tests.servers import Server
from tests.tar_images import push_document

pytestmark = [pytest.mark.slow]
NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
WAS, NOW = layered("ab"), layered("ac")


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, trust_env=False) as connected:
        yield connected


def keep_tag(image: Document) -> str:
    return f"boltseal-keep-{image.digest.partition(':')[2][:12]}"


def test_keep_tags_at_a_registry_are_no_images_and_no_bases(client: httpx2.Client, server: Server) -> None:
    """A kept image that was pushed under its keep tag is not listed, and the base of an image is found by its real tag."""
    for tag in ("latest", keep_tag(WAS)):
        push_document(client, "base/os", tag, WAS)
    push_document(client, "shop/app", "1.0.0", layered("abX"))
    current = call("outdated", "--registry", server.address, "--window", "0s", "--json")
    push_document(client, "base/os", "latest", NOW)
    moved = call("outdated", "--registry", server.address, "--window", "0s", "--json")
    [before], [after] = (
        [row for row in result.json["results"] if row["ref"].endswith("app:1.0.0")] for result in (current, moved)
    )

    assert "boltseal-keep-" not in current.out + moved.out
    assert (before["status"], before["base"]) == ("current", f"{server.address}/base/os:latest")
    assert (after["status"], after["base"]) == ("outdated", f"{server.address}/base/os:latest")


def test_a_container_of_a_kept_image_is_named_without_its_keep_tag(
    client: httpx2.Client, server: Server, tmp_path: Path
) -> None:
    """A container that was started by a keep tag, or whose image has no other tag left, is checked and named by its repository."""
    base, name = f"{server.address}/base/os:latest", f"{server.address}/shop/app"
    push_document(client, "base/os", "latest", WAS)
    app = layered("abX", annotations={NAME: base, DIGEST: WAS.digest})
    push_document(client, "shop/app", "1.0.0", app)
    push_document(client, "base/os", "latest", NOW)
    engine, kept = FakeEngine(), f"{name}:{keep_tag(app)}"
    pulled = engine.image("app", kept, pulled=(f"{name}@{app.digest}",))
    engine.container("web", kept, pulled)

    async def asked(*form: str) -> Run:
        async with engine.listening(tmp_path) as address:
            return await asyncio.to_thread(run, "outdated", "--running", "--host", str(address), *form)

    text, found = asyncio.run(asked()), asyncio.run(asked("--json"))
    [row] = found.json["results"]

    assert "boltseal-keep-" not in text.out + text.err + found.out
    assert (row["status"], row["ref"]) == ("outdated", f"web: {name}@{app.digest}")
