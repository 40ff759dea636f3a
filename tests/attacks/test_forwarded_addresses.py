"""Headers that name the client's address: only a trusted proxy's `X-Forwarded-For` counts, and only its own part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from boltseal.server.settings import Settings
from tests.logins import login, with_users
from tests.serving import Serving, serving_as

HEADERS = (
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
)
PROXY, OTHER = "127.0.0.1", "198.51.100.7"


def settings(data: Path, *trusted: str) -> Settings:
    """Return settings of a registry with users behind these proxies."""
    made = with_users(data)
    return made.model_copy(update={"server": made.server.model_copy(update={"trusted_proxies": trusted})})


async def guesses(registry: Serving, sender: str, headers: Sequence[dict[str, str]]) -> list[int]:
    """Try one wrong password with each of the headers, from one address, and return the statuses."""
    transport = httpx2.ASGITransport(app=registry.app, client=(sender, 5))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
        return [
            (await client.get("/v2/", auth=login("ci", f"guess {n}"), headers=each)).status_code
            for n, each in enumerate(headers)
        ]


@pytest.mark.parametrize("trusted", [(), (PROXY,)])
async def test_no_header_of_a_client_gives_more_tries(data: Path, trusted: tuple[str, ...]) -> None:
    """A client that is no trusted proxy stays one client, whatever it writes."""
    written = [dict.fromkeys(HEADERS, f"192.0.2.{n}") for n in range(8)]
    async with serving_as(settings(data, *trusted)) as registry:
        found = await guesses(registry, OTHER, written)

    assert found == [401] * 5 + [429] * 3


async def test_a_client_of_a_trusted_proxy_gets_no_more_tries_by_writing_the_header_itself(data: Path) -> None:
    """The proxy appends the true address; what the client wrote stands before it."""
    written = [{"x-forwarded-for": f"203.0.113.{n}, 192.0.2.1", "forwarded": f"for=203.0.113.{n}"} for n in range(8)]
    async with serving_as(settings(data, PROXY)) as registry:
        found = await guesses(registry, PROXY, written)

    assert found == [401] * 5 + [429] * 3


async def test_clients_of_a_trusted_proxy_do_not_make_each_other_wait(data: Path) -> None:
    """Failed logins are counted for the address that the proxy appends, and the proxy's other clients log in."""
    async with serving_as(settings(data, PROXY)) as registry:
        found = await guesses(registry, PROXY, [{"x-forwarded-for": "192.0.2.1"}] * 7)
        right = await registry.client.get("/v2/", auth=login("ci"), headers={"x-forwarded-for": "192.0.2.2"})

    assert found[-1] == 429
    assert right.status_code == 200


async def test_a_client_of_a_trusted_proxy_is_not_this_machine(data: Path) -> None:
    """Metrics are for administrators only behind a proxy, also for one who writes the address of this machine."""
    async with serving_as(settings(data, PROXY)) as registry:
        answers = [
            await registry.client.get("/metrics", headers=headers)
            for headers in ({}, {"x-forwarded-for": PROXY}, {"x-forwarded-for": "::1"}, {"x-forwarded-for": ""})
        ]

    assert [answer.status_code for answer in answers] == [403] * 4
