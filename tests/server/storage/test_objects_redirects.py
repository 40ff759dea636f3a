"""Signed addresses of blobs in an object store: what they open, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from tests.object_stores import ObjectStore, object_store
from tests.polling import until_answer
from tests.server.storage.sessions import begin, finish, patch, push
from tests.storage_servers import SECRET_KEY, ObjectServer


@pytest.fixture
def redirecting(object_server: ObjectServer, tmp_path: Path) -> Iterator[ObjectStore]:
    """A blob store whose clients fetch blobs from the S3 server."""
    with object_store(object_server, tmp_path / "data", redirect=True) as opened:
        yield opened


async def address_of(store: ObjectStore, digest: Digest, expires_s: int = 60) -> str:
    """Return the signed address of a blob."""
    assert store.blobs.redirect is not None
    address = await store.blobs.redirect.redirect_url(digest, expires_s)
    assert address is not None
    return address


async def test_a_signed_address_returns_the_blob_and_ranges_of_it(redirecting: ObjectStore) -> None:
    """The S3 server answers a GET of the signed address with the blob, and with a range of it."""
    address = await address_of(redirecting, await push(redirecting.blobs, b"0123456789"))
    async with httpx2.AsyncClient() as client:
        whole, part = await client.get(address), await client.get(address, headers={"Range": "bytes=3-5"})

    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert (part.status_code, part.content) == (206, b"345")
    assert SECRET_KEY not in address


async def test_an_expired_address_is_refused(redirecting: ObjectStore) -> None:
    """An address whose time is over gets 403 from the S3 server; `tests/attacks/shared_storage` changes addresses."""
    expired = await address_of(redirecting, await push(redirecting.blobs, b"one"), expires_s=1)
    async with httpx2.AsyncClient() as client:

        async def is_refused() -> bool:
            return (await client.get(expired)).status_code == 403

        assert await until_answer(is_refused, "the address has expired")


async def test_a_blob_of_several_objects_has_no_address(redirecting: ObjectStore) -> None:
    """Only a blob that is one object can be fetched from the S3 server; the bytes of others are sent."""
    key, digest = await begin(redirecting.blobs), Digest.of(b"one two")
    await patch(redirecting.blobs, key, b"one ")
    await finish(redirecting.blobs, key, b"two", digest)
    assert redirecting.blobs.redirect is not None

    assert await redirecting.blobs.redirect.redirect_url(digest, 60) is None
