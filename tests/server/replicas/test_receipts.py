"""How long a receipt takes after the commit: counted in round trips to the object store that wait for each other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.images import image, push, push_parts, put
from tests.polling import until_answer, until_signed
from tests.replicas import replicas
from tests.server.replicas.counting_proxy import counting_proxy
from tests.storage_servers import ObjectServer

pytestmark = pytest.mark.real

APP = "shop/app"
MOST = 3
DELAY_S = 0.2  # longer than what a machine under load needs to begin two requests at the same time


async def test_a_receipt_needs_three_round_trips_in_sequence_after_the_commit(
    tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer
) -> None:
    """The mark is read while the head is stated, tiles are written at the same time, and then the mark; the manifest's object is before the commit."""
    with counting_proxy(object_server.port, 0.0) as proxy:
        objects = dataclasses.replace(object_server, port=proxy.port)
        with replicas(tmp_path, new_database(), objects) as registry, registry.serve("replica0") as server:
            async with httpx2.AsyncClient(base_url=server.url, timeout=60.0) as client:
                await push(client, APP, "1.0.0", image("the first"))
                await until_signed(client, 3)
                document = image("the second")
                await push_parts(client, APP, document)
                proxy.delay_s = DELAY_S
                index = int((await put(client, APP, "2.0.0", document)).headers["boltseal-ledger-index"])

                async def receipt() -> bool:
                    return (await client.get(f"/ledger/receipt/{index}")).status_code == 200

                await until_answer(receipt, "there is a receipt")
                got_s = time.monotonic()
                manifest = next(each for each in reversed(proxy.seen) if "/manifests/" in each.line)
                chain = [each.line for each in proxy.in_sequence(manifest.ended_s, got_s)]

    assert len(chain) <= MOST, chain
    assert "boltseal.mark" in chain[-1]
