"""One token for many repositories, and groups that are too large for a registry or its proxy."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import stamina

from boltseal.client.challenges import Challenge
from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteUnavailable
from boltseal.client.head_requests import HeadResult, resolve_tags
from boltseal.client.tokens import TokenCache
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.reference import Reference
from tests.fakes.hub import FakeHub
from tests.images import OCI_MANIFEST

MANY = 200


@pytest.fixture
def hub() -> FakeHub:
    hub = FakeHub()
    for number in range(MANY):
        hub.publish(f"team/app{number}", "1.0.0", b'{"schemaVersion":2}', OCI_MANIFEST)
    return hub


@pytest.fixture
async def transport(hub: FakeHub, tmp_path: Path) -> AsyncIterator[Transport]:
    opened = Transport(CredentialStore([tmp_path / "none"]), TransportOptions(), app=hub.transport())
    with stamina.set_testing(True, attempts=1):
        yield opened
    await opened.aclose()


async def asked(transport: Transport) -> list[HeadResult]:
    references = [Reference.parse(f"docker.io/team/app{number}:1.0.0") for number in range(MANY)]
    return [answer async for answer in resolve_tags(transport, references)]


async def test_two_hundred_repositories_share_one_token(hub: FakeHub, transport: Transport) -> None:
    """Two hundred repositories share one token with all scopes; a second run needs no token."""
    answers = [*await asked(transport), *await asked(transport)]

    assert all(answer.resolved for answer in answers)
    assert hub.counted == {"token": 1, "HEAD manifest": 2 * MANY}


@pytest.mark.parametrize("breaks_off", [False, True])
async def test_a_token_service_that_rejects_long_urls_gets_smaller_groups(
    hub: FakeHub, transport: Transport, breaks_off: bool
) -> None:
    """If the token service rejects a long URL (nginx: 8 KiB, 414), groups are halved and the working size is
    remembered."""
    hub.most_scopes, hub.breaks_off = 60, breaks_off
    answers = await asked(transport)
    first = hub.counted.copy()
    for _ in range(4):
        transport.tokens.forget("docker.io", transport.tokens.held("docker.io", frozenset()) or "")
    await asked(transport)

    assert all(answer.resolved for answer in answers)
    assert first == {"token": 2 + 4, "too long": 2, "HEAD manifest": MANY}
    assert hub.counted == {"token": 2 + 4 + 4, "too long": 2, "HEAD manifest": 2 * MANY}


@pytest.mark.parametrize("breaks_off", [False, True])
async def test_a_token_too_long_for_the_registry_is_split(hub: FakeHub, transport: Transport, breaks_off: bool) -> None:
    """If a token is too long for the registry's header limit, the group is halved."""
    hub.longest_token, hub.breaks_off = 4200, breaks_off
    answers = await asked(transport)

    assert all(answer.resolved for answer in answers)
    assert hub.counted == {"token": 1 + 2, "too long": 1, "HEAD manifest": MANY}


async def test_one_denied_repository_does_not_affect_the_others(hub: FakeHub, transport: Transport) -> None:
    """One denied repository is found by halving the group, in few requests."""
    hub.closed = "team/app77:"
    answers = {str(answer.reference.repository): answer for answer in await asked(transport)}

    assert [name for name, answer in answers.items() if answer.error] == ["team/app77"]
    assert '(HTTP 403, "requested access to the resource is denied")' in str(answers["team/app77"].error)
    assert hub.counted["token"] <= 2 * 9
    assert hub.counted["HEAD manifest"] == MANY - 1


async def test_a_failing_token_service_does_not_split_groups(hub: FakeHub, transport: Transport) -> None:
    """A 500 of the token service does not split groups, because it has nothing to do with length."""
    hub.realm = "https://auth.test/nothing"
    answers = await asked(transport)

    assert all(isinstance(answer.error, RemoteUnavailable) for answer in answers)


async def test_a_refusal_with_another_reason_is_raised(hub: FakeHub, transport: Transport) -> None:
    """If a 400 persists for a short token, groups are no longer split and the error is raised."""
    hub.longest_token = 0
    answers = await asked(transport)

    assert all("HTTP 431" in answer.error.message for answer in answers if answer.error)
    assert all(answer.error for answer in answers)
    assert hub.counted["token"] <= 3


async def test_the_cache_of_tokens_is_bounded(hub: FakeHub) -> None:
    """The cache of tokens is bounded, since a mirror's clients choose the repositories; the oldest token is dropped."""
    challenge = Challenge("bearer", {"realm": hub.realm, "service": "hub"})
    async with httpx2.AsyncClient(transport=hub.transport()) as http:
        tokens = TokenCache(lambda *_: http, most_held=2)
        for number in range(20):
            await tokens.ask("docker.io", scope(number), challenge, None)
        gc.collect()
        locks = sum(isinstance(each, asyncio.Lock) for each in gc.get_objects())
        for number in range(20, 40):
            await tokens.ask("docker.io", scope(number), challenge, None)
        gc.collect()

        assert [number for number in range(40) if tokens.held("docker.io", scope(number))] == [38, 39]
        assert sum(isinstance(each, asyncio.Lock) for each in gc.get_objects()) == locks


def scope(number: int) -> frozenset[str]:
    return frozenset({f"repository:team/app{number}:pull"})
