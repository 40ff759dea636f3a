"""Fuzzing of all routes, methods, headers and bodies: no response is a 500, and each refusal is one clear sentence."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asgi import send
from tests.images import meaning, push, push_blob, start_upload
from tests.server.api.fuzzing import BLOB, DOCUMENT, REPOSITORY, SEALED, broken_rules, requests
from tests.serving import Serving
from tests.soak.scale import IS_FULL

LONG = 50_000 if IS_FULL else 2_500
UNHEALTHY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
async def sessions(registry: Serving) -> tuple[str, ...]:
    """Open upload sessions of a registry with a sealed image, and a finished one."""
    await push(registry.client, REPOSITORY, SEALED, DOCUMENT)
    await push_blob(registry.client, REPOSITORY, BLOB)
    locations = [await start_upload(registry.client, REPOSITORY) for _ in range(3)]
    await registry.client.delete(locations[0])
    return tuple(location.rpartition("/")[2] for location in locations)


async def send_one(registry: Serving, sessions: tuple[str, ...], data: st.DataObject) -> None:
    """Send one request and check the invariants."""
    request = data.draw(requests(sessions))
    answer = await send(
        registry.app,
        request.method,
        request.target,
        headers=request.headers,
        body=request.pieces or b"",
        dies=request.dies,
    )

    assert broken_rules(request, answer) == [], answer
    assert await meaning(registry.client, REPOSITORY, SEALED) == DOCUMENT.digest
    if request.method == "POST" and answer.status == 202:  # else a long run would reach the limit of open uploads
        assert (await registry.client.delete(answer.headers["location"])).status_code == 204


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=UNHEALTHY)
@given(data=st.data())
@pytest.mark.slow
async def test_no_request_finds_a_defect(registry: Serving, sessions: tuple[str, ...], data: st.DataObject) -> None:
    """Every response follows the spec, and the sealed tag still resolves to the same digest."""
    await send_one(registry, sessions, data)


@pytest.mark.slow
@settings(max_examples=LONG, deadline=None, derandomize=True, suppress_health_check=UNHEALTHY)
@given(data=st.data())
async def test_many_requests_find_no_defect(registry: Serving, sessions: tuple[str, ...], data: st.DataObject) -> None:
    """A longer fuzzing run finds no defect; TEST_SCALE=full makes it twenty times longer."""
    await send_one(registry, sessions, data)
