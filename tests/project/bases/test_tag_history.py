"""The history of a tag, from its registry or from observations."""

from __future__ import annotations

import asyncio
from pathlib import Path

from boltseal.client.credentials import CredentialStore
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport, TransportOptions
from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
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
