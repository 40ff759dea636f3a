"""Blobs whose file is missing or damaged: no partial content is served, and another push repairs them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest

from tests.images import Blob, error_of, push_blob
from tests.serving import Serving

pytestmark = pytest.mark.files_only("damages the files of blobs; test_objects has those of objects")

SMALL, LARGE = Blob(b"small" * 100), Blob(b"large" * 200_000)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def plant_link(file: Path) -> None:
    """Replace the file with a link to another file of the same size."""
    elsewhere = file.parents[3] / "elsewhere"
    elsewhere.write_bytes(bytes(file.stat().st_size))
    file.unlink()
    file.symlink_to(elsewhere)


@pytest.fixture(params=[Path.unlink, truncate, plant_link], ids=["missing", "shorter", "link"])
def harm(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Damage a file of the store in one of several ways."""
    chosen: Callable[[Path], None] = request.param
    return chosen


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
async def lost(registry: Serving, harm: Callable[[Path], None], request: pytest.FixtureRequest) -> AsyncIterator[Blob]:
    """A pushed blob whose file is damaged. At the end it is pushed again, and fsck must find nothing."""
    blob: Blob = request.param
    await push_blob(registry.client, "shop/app", blob)
    algorithm, _, encoded = blob.digest.partition(":")
    harm(registry.data / "blobs" / algorithm / encoded[:2] / encoded)
    yield blob
    await push_blob(registry.client, "shop/app", blob)


def url(blob: Blob) -> str:
    return f"/v2/shop/app/blobs/{blob.digest}"


async def test_lost_bytes_are_a_miss_with_a_reason(client: httpx2.AsyncClient, lost: Blob) -> None:
    """A blob whose bytes are lost gets 404, never partial content or a wrong length."""
    answer = await client.get(url(lost))

    assert answer.status_code == 404
    assert error_of(answer)[0] == "BLOB_UNKNOWN"
    assert "push it again to repair it" in error_of(answer)[1]


async def test_a_range_of_lost_bytes_is_a_miss_too(client: httpx2.AsyncClient, lost: Blob) -> None:
    """A range of a damaged blob gets 404, even if the range itself exists."""
    answer = await client.get(url(lost), headers={"Range": "bytes=0-9"})

    assert answer.status_code == 404


async def test_head_reports_lost_bytes_so_that_a_push_sends_them(client: httpx2.AsyncClient, lost: Blob) -> None:
    """HEAD of a damaged blob is 404, because clients skip the push of a layer after a 200."""
    before = await client.head(url(lost))
    await push_blob(client, "shop/app", lost)
    after = await client.get(url(lost))

    assert before.status_code == 404
    assert after.content == lost.data


async def test_not_modified_does_not_need_the_bytes(client: httpx2.AsyncClient, lost: Blob) -> None:
    """A 304 is sent for a damaged blob, since it depends only on the digest."""
    answer = await client.get(url(lost), headers={"If-None-Match": f'"{lost.digest}"'})

    assert answer.status_code == 304
