"""The webhook's ASGI application: bodies of any size, in any pieces."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from boltseal.commands.admission import AdmissionWebhook
from boltseal.commands.admission_images import AdmissionImages, AdmissionTerms
from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import client_paths
from boltseal.deploy.kube.admission_review import MAX_REVIEW_BYTES
from boltseal.server.admission import LARGE_BYTES, MAX_RECEIVED_BYTES, SMALL_BYTES, AdmissionApp
from tests.deploy.kube.reviews import UID, object_of, review

PIECE = 1024 * 1024


def application(state: Path) -> AdmissionApp:
    """Return a webhook that trusts no registry."""
    client = ClientContext(client_paths(), state, lambda: 0, lambda _: None)
    images = AdmissionImages(RegistryOptions(client, anonymous=True), AdmissionTerms(frozenset()), lambda: 0.0)
    return AdmissionApp(AdmissionWebhook(images, lambda *_: None))


async def post(app: AdmissionApp, receive: Callable[[], Awaitable[Message]]) -> tuple[int, bytes]:
    """Return the status and body of the answer to a review."""
    sent = list[Any]()

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "path": "/mutate", "method": "POST", "query_string": b""}, receive, send)
    return sent[0]["status"], sent[1]["body"]


async def answer(state: Path, body: Iterable[bytes]) -> tuple[int, bytes, int]:
    """Return the status and body of the answer to a review that arrives in pieces, and how many were received."""
    pieces, received = iter(body), 0

    async def receive() -> Message:
        nonlocal received
        piece = next(pieces, None)
        received += piece is not None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    return *await post(application(state), receive), received


def pieces_of(size: int) -> Iterable[bytes]:
    """Yield the pieces of a review of about so many bytes."""
    yield review(object_of("Pod", {"containers": []}))[:-2]
    for _ in range(size // PIECE):
        yield b" " * PIECE
    yield b"}}"


@pytest.mark.parametrize(
    ("size", "allowed", "received"),
    [
        (MAX_REVIEW_BYTES - PIECE, True, MAX_REVIEW_BYTES // PIECE + 1),
        (MAX_REVIEW_BYTES, False, MAX_REVIEW_BYTES // PIECE + 2),
        (MAX_RECEIVED_BYTES * 4, False, MAX_RECEIVED_BYTES // PIECE + 1),
    ],
)
async def test_a_review_of_any_size_gets_an_answer(tmp_path: Path, size: int, allowed: bool, received: int) -> None:
    """One that is too large is received up to a limit, and refused; nothing reads on for ever."""
    status, body, pieces = await answer(tmp_path, pieces_of(size))
    response = json.loads(body)["response"]

    assert (status, response["uid"], response["allowed"]) == (200, UID, allowed)
    assert pieces == received


async def test_a_large_body_that_is_no_review_is_an_error(tmp_path: Path) -> None:
    """Without a uid there is nothing to answer."""
    status, body, _ = await answer(tmp_path, (b" " * PIECE for _ in range(10)))

    assert status == 413
    assert b"more than" in body


async def test_a_crowd_of_large_reviews_has_bounded_memory_and_stops_no_small_one(tmp_path: Path) -> None:
    """Of connections that each send eight megabytes and never end, those over the limit are dropped; a small review is answered."""
    app, go_on = application(tmp_path), asyncio.Event()

    def held() -> Callable[[], Awaitable[Message]]:
        pieces = iter(pieces_of(MAX_REVIEW_BYTES - PIECE))

        async def receive() -> Message:
            piece = next(pieces)
            if piece == b"}}":
                await go_on.wait()
            return {"type": "http.request", "body": piece, "more_body": piece != b"}}"}

        return receive

    async def small() -> Message:
        return {"type": "http.request", "body": review(object_of("Pod", {"containers": []})), "more_body": False}

    tracemalloc.start()
    try:
        crowd = [asyncio.create_task(post(app, held())) for _ in range(40)]
        await asyncio.sleep(0)
        held_bytes = tracemalloc.get_traced_memory()[0]
        status, body = await post(app, small)
        go_on.set()
        responses = [json.loads(body)["response"] for _, body in await asyncio.gather(*crowd)]
    finally:
        tracemalloc.stop()
    again = await post(app, held())

    # An array of bytes is up to an eighth larger than its content, and each sender has a piece in memory.
    assert held_bytes < LARGE_BYTES * 9 // 8 + 40 * (PIECE + SMALL_BYTES)
    assert (status, json.loads(body)["response"]["allowed"]) == (200, True)
    refused = [response["status"]["message"] for response in responses if not response["allowed"]]
    assert 20 < len(refused) <= 40 - LARGE_BYTES // MAX_REVIEW_BYTES
    assert all(message.endswith("other large ones are being read now; try again") for message in refused)
    assert json.loads(again[1])["response"]["allowed"] is True
