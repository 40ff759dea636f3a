"""DNS rebinding: a registry without users on loopback, and a web page whose host name resolves to this machine."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.serving import serving


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", ""]
)
async def test_a_page_whose_name_was_rebound_to_this_machine_gets_nothing(
    client: httpx2.AsyncClient, host: str
) -> None:
    """Requests with a web page's name as Host are answered neither for reads nor for writes."""
    read = await client.get("/v2/_catalog", headers={"host": host})
    written = await client.post("/v2/shop/app/blobs/uploads/", headers={"host": host})

    assert (read.status_code, written.status_code) == (403, 403)
    assert read.json()["errors"][0]["code"] == "DENIED"


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "LOCALHOST:5000", "127.0.0.1:5000", "[::1]:5000"])
async def test_this_machine_may_ask_by_all_its_names(client: httpx2.AsyncClient, host: str) -> None:
    """A client may use any of this machine's loopback names."""
    answer = await client.get("/v2/", headers={"host": host})

    assert answer.status_code == 200


async def test_behind_a_proxy_the_proxy_decides_by_which_names(data: Path) -> None:
    """With --behind-proxy any Host is accepted, because the proxy passes on the name that its clients use."""
    async with serving(data, behind_proxy=True) as registry:
        answer = await registry.client.get("/v2/", headers={"host": "registry.example"})

    assert answer.status_code == 200
