"""collect takes away what nothing needs, and nothing else, also beside pushes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.registry.values import ANONYMOUS
from boltseal.storage.collect import Item, collect
from tests.shop import DAY_US, SHOP, once

if TYPE_CHECKING:
    from tests.shop import Shop

HOUR_US = DAY_US // 24


def age(shop: Shop, data: bytes, hours: int) -> None:
    """Make a blob's file as old as if it had been stored so many hours ago by the test's clock."""
    path = shop.blobs.path(Digest.of(data))
    assert path is not None
    then = (shop.clock.now_us - hours * HOUR_US) / 1e6
    os.utime(path, (then, then))


def run(shop: Shop, *, dry_run: bool = False) -> list[Item]:
    return list(collect(shop.database, shop.blobs, shop.clock.now_us, dry_run=dry_run))


async def in_thread(shop: Shop, *, dry_run: bool = False) -> list[Item]:
    return await asyncio.to_thread(lambda: run(shop, dry_run=dry_run))


async def test_named_bytes_stay_whatever_their_age(shop: Shop) -> None:
    """A row of any repository keeps the bytes."""
    await shop.blob(b"kept")
    age(shop, b"kept", 1000)

    assert await in_thread(shop) == []
    assert shop.blobs.present(Digest.of(b"kept"))


async def test_unnamed_bytes_go_after_a_day(shop: Shop) -> None:
    """Stored more than 24 hours ago and released more than one hour ago: gone, with the reason."""
    await shop.blob(b"goes")
    age(shop, b"goes", 30)
    await shop.registry.deletes.blob(SHOP, Digest.of(b"goes"), ANONYMOUS)
    soon = await in_thread(shop)
    shop.clock.now_us += 2 * HOUR_US
    planned = await in_thread(shop, dry_run=True)
    there = shop.blobs.present(Digest.of(b"goes"))
    gone = await in_thread(shop)

    assert soon == []
    assert planned == gone == [Item("blob", str(Digest.of(b"goes")), 4, "no repository names it since 2 h")]
    assert there
    assert not shop.blobs.present(Digest.of(b"goes"))
    assert await in_thread(shop) == []


async def test_young_unnamed_bytes_stay(shop: Shop) -> None:
    """A push between its bytes and its row is safe for a day."""
    await shop.blob(b"young")
    await shop.registry.deletes.blob(SHOP, Digest.of(b"young"), ANONYMOUS)
    age(shop, b"young", 23)
    shop.clock.now_us += HOUR_US - 1

    assert await in_thread(shop) == []


async def test_a_push_between_its_bytes_and_its_row_is_told_to_try_again(shop: Shop) -> None:
    """Bytes that went in that moment are never acknowledged as held."""
    digest = Digest.of(b"raced")
    await shop.blob(b"raced")
    await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
    upload = await shop.registry.uploads.start(SHOP, ANONYMOUS)

    class Vanishing:
        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs, name)

        def present(self, wanted: Digest) -> bool:
            shop.blobs.remove(wanted)
            return shop.blobs.present(wanted)

    shop.registry.uploads._blobs = Vanishing()  # type: ignore[assignment]  # the rest by __getattr__
    with pytest.raises(Unavailable, match="push again"):
        await shop.registry.uploads.finish(SHOP, upload, digest, None, None, once(b"raced"), ANONYMOUS)

    assert (await shop.registry.pulls.catalog(None, None)).items == ()


async def test_collect_and_pushes_at_once_lose_nothing(shop: Shop) -> None:
    """What was acknowledged beside a collect is there afterwards."""
    bodies = [f"blob {n}".encode() for n in range(60)]
    for body in bodies:
        await shop.blob(body)
        age(shop, body, 48)
        await shop.registry.deletes.blob(SHOP, Digest.of(body), ANONYMOUS)
    shop.clock.now_us += 2 * HOUR_US
    collected, *pushed = await asyncio.gather(
        in_thread(shop), *(shop.blob(body) for body in bodies), return_exceptions=True
    )
    acknowledged = [body for body, result in zip(bodies, pushed, strict=True) if not isinstance(result, BaseException)]

    assert not isinstance(collected, BaseException)
    assert all(isinstance(result, dict | Unavailable) for result in pushed)
    assert acknowledged
    for body in acknowledged:
        assert shop.blobs.present(Digest.of(body))


async def test_an_abandoned_upload_goes_after_a_day(shop: Shop) -> None:
    """A session nobody goes on with is dropped; one that is in use stays."""
    upload = await shop.registry.uploads.start(SHOP, ANONYMOUS)
    await shop.registry.uploads.append(SHOP, upload, None, None, once(b"half"))
    real_now_us = time.time_ns() // 1000
    shop.clock.now_us = real_now_us + DAY_US // 2
    early = await in_thread(shop)
    shop.clock.now_us = real_now_us + DAY_US + HOUR_US
    gone = await in_thread(shop)

    assert early == []
    assert [(item.what, item.size_bytes) for item in gone] == [("upload", 4)]
