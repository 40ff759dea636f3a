"""The history of a tag, from its registry or from observations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from boltseal.client.credentials import CredentialStore
from boltseal.client.history import EVENT, TIMESTAMP
from boltseal.client.ledger_trust import LedgerCheck, TrustStatus
from boltseal.client.transport import Transport, TransportOptions
from boltseal.errors import BoltsealError, Unavailable
from boltseal.ledger.checkpoint import Checkpoint
from boltseal.ledger.follow import Trusted, TrustedCheckpoint
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Reference
from boltseal.project.bases.freshness import TagInterval
from boltseal.project.bases.tag_history import TagHistories

TAG = Reference.parse("registry.test/base/os:latest")
OBSERVED = TagInterval(Digest.of(b"os"), 1, 2)


async def test_a_registry_is_asked_once_however_many_images_wait_for_a_tag() -> None:
    """Callers that ask for the history of one tag at once get the answer of one request."""
    asked = []

    async def followed(registry: str) -> LedgerCheck | BoltsealError:
        asked.append(registry)
        return Unavailable("no")

    transport = Transport(CredentialStore([Path("/nowhere")]), TransportOptions())
    histories = TagHistories(transport, [lambda _: [OBSERVED]], followed)
    found = await asyncio.wait_for(asyncio.gather(*(histories.of(TAG) for _ in range(5))), 30)
    await transport.aclose()

    assert found == [(OBSERVED,)] * 5
    assert asked == ["registry.test"]
    assert not histories.is_complete(TAG)


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00", "2026-99-99T00:00:00Z", ""])
async def test_a_history_with_times_that_are_none_counts_as_no_history(time: str) -> None:
    """What a registry says without a signature is used if it can be read, and is no error otherwise."""
    event = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(OBSERVED.digest),
        "size": 1,
        "annotations": {TIMESTAMP: time, EVENT: "created"},
    }
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [event]}
    registry = Starlette(
        routes=[
            Route("/v2/", lambda _: Response()),
            Route("/v2/base/os/_oci/tag-history/latest", lambda _: JSONResponse(index)),
        ]
    )
    head = TrustedCheckpoint(Trusted("registry.test", b"keys"), Checkpoint("registry.test", 1, bytes(32)), b"")

    async def followed(name: str) -> LedgerCheck | BoltsealError:
        return LedgerCheck(name, TrustStatus.GROWN, head)

    transport = Transport(CredentialStore(()), TransportOptions(), app=httpx2.ASGITransport(app=registry))
    found = await TagHistories(transport, [lambda _: [OBSERVED]], followed).of(TAG)
    await transport.aclose()

    assert found == (OBSERVED,)
