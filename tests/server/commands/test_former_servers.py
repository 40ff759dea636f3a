"""A server whose bucket is given to another registry while it runs accepts no more pushes, and says why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import httpx2
import obstore
import pytest

from boltseal.server.commands.backups import make_backup, restore_backup
from boltseal.server.commands.tag_seals import unseal_tag
from boltseal.server.registry.sequencer import LedgerFrozen
from boltseal.server.settings import Settings
from boltseal.server.storage.bucket_owner import KEY, new_id
from boltseal.server.storage_settings import BucketUrl
from boltseal.server.store_factory import prepare
from tests.images import image, put
from tests.polling import until_answer, until_signed
from tests.server.commands.moving import NOW_US, push_all, quiet, with_keys_and_mark
from tests.serving import serving_as
from tests.storage_servers import ObjectServer

pytestmark = pytest.mark.slow
NOTICED_S = 60.0
"""Within this time a server notices that its bucket has another owner, also without a push."""


def owner_document(registry: str) -> bytes:
    """Return the content of an owner object."""
    return json.dumps({"format": 1, "registry": registry}).encode()


def bucket_of(settings: Settings) -> BucketUrl:
    """Return the bucket of these settings."""
    assert settings.storage.blobs is not None
    return settings.storage.blobs


async def blocked(client: httpx2.AsyncClient) -> str:
    """Return the answer of /readyz if the server is not ready, otherwise an empty text."""
    answer = await client.get("/readyz")
    return answer.text if answer.status_code == 503 else ""


async def until_refused(client: httpx2.AsyncClient) -> None:
    """Push tags until one is refused."""
    tags = (f"2.0.{number}" for number in count())

    async def refused() -> bool:
        return (await put(client, "shop/app", next(tags), image("1.0.0"))).status_code != 201

    await until_answer(refused, "a push is refused", NOTICED_S)


def test_a_former_server_takes_no_pushes_after_a_restore_into_its_bucket(
    place: Callable[[str], Settings], tmp_path: Path
) -> None:
    """The restored registry has the bucket: the server that still runs on the old database signs no push, and is frozen when it tries."""
    old, new = place("old"), place("new")
    prepare(old)
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=False)
    new = new.model_copy(update={"storage": new.storage.model_copy(update={"blobs": old.storage.blobs})})
    new = with_keys_and_mark(new, old)

    async def run() -> tuple[list[str], str, httpx2.Response, httpx2.Response, int]:
        async with serving_as(old) as registry:
            client = registry.client
            await until_signed(client, 3)  # the start of the ledger, its rules, and the push
            signed = [(await client.get("/ledger/checkpoint")).text]
            await asyncio.to_thread(restore_backup, new, tmp_path / "copy", quiet)
            await until_refused(client)
            refused = await put(client, "shop/app", "3.0.0", image("1.0.0"))
            upload = await client.post("/v2/shop/app/blobs/uploads/")
            pulled = await client.get("/v2/shop/app/manifests/1.0.0")
            signed.append((await client.get("/ledger/checkpoint")).text)
            return signed, await blocked(client), refused, upload, pulled.status_code

    signed, reason, refused, upload, pulled = asyncio.run(run())
    asyncio.run(push_all(new, "4.0.0"))

    assert signed[0] == signed[1]
    assert "belongs to another registry" in reason
    assert refused.status_code == upload.status_code == 503
    assert "push to the new server, and stop this one for good" in refused.text
    assert "empty prefix" not in refused.text
    assert pulled == 200


@pytest.mark.parametrize(
    ("becomes", "says"),
    [
        ("another registry's", "belongs to another registry now"),
        ("gone", "has no owner object"),
        ("damaged", "is no owner object"),
        ("of a newer format", "use a newer boltseal"),
    ],
)
def test_a_server_notices_without_a_push_that_it_lost_its_bucket(
    place: Callable[[str], Settings], object_server: ObjectServer, becomes: str, says: str
) -> None:
    """Within a minute it is not ready and refuses pushes and commands; it accepts them again when the owner object is as before."""
    settings = place("server")
    prepare(settings)
    asyncio.run(push_all(settings, "1.0.0"))
    bucket = object_server.store(bucket_of(settings).prefix)
    before = bytes(obstore.get(bucket, KEY).bytes())
    documents = {
        "another registry's": owner_document(new_id()),
        "damaged": b"{",
        "of a newer format": b'{"format": 2, "registry": ""}',
    }

    async def run() -> tuple[str, int, str, int]:
        async with serving_as(settings) as registry:
            client = registry.client
            await until_signed(client, 2)
            if becomes == "gone":
                obstore.delete(bucket, KEY)
            else:
                obstore.put(bucket, KEY, documents[becomes])
            reason = await until_answer(lambda: blocked(client), "the server is not ready", NOTICED_S)
            refused = await put(client, "shop/app", "2.0.0", image("1.0.0"))
            with pytest.raises(LedgerFrozen, match=says):
                await asyncio.to_thread(unseal_tag, settings, "localhost:5000/shop/app:1.0.0", "a test")
            obstore.put(bucket, KEY, before)

            async def accepted() -> bool:
                return (await put(client, "shop/app", "2.0.0", image("1.0.0"))).status_code == 201

            await until_answer(accepted, "pushes are accepted again", NOTICED_S)
            return reason, refused.status_code, refused.text, (await client.get("/readyz")).status_code

    reason, status, text, ready = asyncio.run(run())

    assert says in reason
    assert status == 503
    assert says in text
    assert ready == 200
