"""The webhook's ASGI application: bodies of any size, in any pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from boltseal.server.admission import MAX_RECEIVED_BYTES, AdmissionApp
from tests.deploy.kube.reviews import UID, object_of, review

PIECE = 1024 * 1024


async def answer(state: Path, body: Iterable[bytes]) -> tuple[int, bytes, int]:
    """Return the status and body of the answer to a review that arrives in pieces, and how many were received."""
    client = ClientContext(client_paths(), state, lambda: 0, lambda _: None)
    images = AdmissionImages(RegistryOptions(client, anonymous=True), AdmissionTerms(frozenset()), lambda: 0.0)
    pieces, sent, received = iter(body), list[Any](), 0

    async def receive() -> Message:
        nonlocal received
        piece = next(pieces, None)
        received += piece is not None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/mutate", "method": "POST", "query_string": b""}
    await AdmissionApp(AdmissionWebhook(images, lambda *_: None))(scope, receive, send)
    return sent[0]["status"], sent[1]["body"], received


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
