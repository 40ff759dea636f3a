"""`?ns=` names the registry that a client wants: local content is never served or changed under another's name."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import OCTETS, digest_of, error_of, image, meaning, push, put
from tests.serving import serving

DOCUMENT = image("ours")


@pytest.mark.parametrize(
    "kind", ["manifests/latest", f"manifests/{DOCUMENT.digest}", f"blobs/{DOCUMENT.config.digest}"]
)
async def test_a_pull_for_another_registry_does_not_get_local_content(client: httpx2.AsyncClient, kind: str) -> None:
    """Asked for `docker.io`'s shop/app, the registry does not return its local shop/app."""
    await push(client, "shop/app", "latest", DOCUMENT)

    answer = await client.get(f"/v2/shop/app/{kind}", params={"ns": "docker.io"})

    assert answer.status_code == 404
    assert error_of(answer)[0] == "NAME_UNKNOWN"


async def test_a_write_for_another_registry_is_refused(client: httpx2.AsyncClient) -> None:
    """Pushes, uploads and deletions with `ns` of another registry are refused and change nothing."""
    await push(client, "shop/app", "latest", DOCUMENT)
    blob = b"pushed"

    answers = [
        await client.put(
            "/v2/shop/app/manifests/latest?ns=docker.io",
            content=DOCUMENT.raw,
            headers={"Content-Type": DOCUMENT.media_type},
        ),
        await client.post(
            "/v2/shop/app/blobs/uploads/",
            params={"ns": "docker.io", "digest": digest_of(blob)},
            content=blob,
            headers={"Content-Type": OCTETS},
        ),
        await client.delete("/v2/shop/app/manifests/latest?ns=docker.io"),
        await client.delete(f"/v2/shop/app/blobs/{DOCUMENT.config.digest}?ns=docker.io"),
    ]

    assert [answer.status_code for answer in answers] == [400] * 4
    assert await meaning(client, "shop/app", "latest") == DOCUMENT.digest


async def test_the_registrys_own_name_is_an_ordinary_request(data: Path) -> None:
    """With a `public_url`, `ns` with its host is an ordinary request."""
    async with serving(data, public_url="https://registry.example:8443") as registry:
        await push(registry.client, "shop/app", "latest", DOCUMENT)
        pulled = await registry.client.get("/v2/shop/app/manifests/latest?ns=registry.example:8443")
        elsewhere = await registry.client.get("/v2/shop/app/manifests/latest?ns=registry.example")
        pushed = await put(registry.client, "shop/app", "latest", DOCUMENT)

    assert pulled.content == DOCUMENT.raw
    assert elsewhere.status_code == 404
    assert pushed.status_code == 201
