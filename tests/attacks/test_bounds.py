"""One user who exceeds a limit of bytes, repositories, uploads or referrers is refused; other users are not affected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest

from boltseal.server.settings import Settings
from boltseal.server.store_factory import examine_store
from tests.images import (
    OCI_MANIFEST,
    Blob,
    artifact,
    error_of,
    holds_blob,
    image,
    in_pieces,
    meaning,
    push,
    push_blob,
    start_upload,
    with_digest,
)
from tests.serving import Serving, serving, serving_as, settings_of

MIB = 1024 * 1024
PEOPLE = ("ci", "ana")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def htpasswd() -> str:
    """A users' file in which each password equals its user's name."""
    lines = [f"{name}:{bcrypt.hashpw(name.encode(), bcrypt.gensalt(4)).decode()}" for name in PEOPLE]
    return "\n".join(lines) + "\n"


@pytest.fixture
def shop(data: Path, htpasswd: str) -> Open:
    """Open this test's registry with these quotas; the client is `ci`."""
    keys = data.with_name(f"{data.name}.keys")
    keys.mkdir(mode=0o700, exist_ok=True)
    (keys / "htpasswd").write_text(htpasswd)

    @asynccontextmanager
    async def open_(*quotas: dict[str, object], **auth: object) -> AsyncIterator[Serving]:
        delete = [{"users": ["*"], "actions": ["pull", "push", "delete"]}]
        tables = {"server": {"data": data}, "auth": {"grant": delete, "quota": quotas, **auth}}
        async with serving_as(Settings.model_validate(tables)) as running:
            running.client.auth = httpx2.BasicAuth("ci", "ci")
            yield running

    return open_


async def blob_answer(client: httpx2.AsyncClient, repository: str, blob: Blob) -> httpx2.Response:
    """Push a blob in one request and return the answer."""
    return await client.post(f"/v2/{repository}/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)


async def test_a_push_over_the_quota_is_refused_and_keeps_nothing(shop: Open) -> None:
    """A push over the quota gets 403, which no client retries; the message names usage, limit and remedy, and nothing
    stays."""
    async with shop({"users": ["ci"], "max_bytes": 1000}) as running:
        first = await blob_answer(running.client, "shop/app", Blob(b"a" * 600))
        second = await blob_answer(running.client, "shop/app", Blob(b"b" * 600))
        held = await holds_blob(running.client, "shop/app", Blob(b"b" * 600).digest)
        fits = await blob_answer(running.client, "shop/app", Blob(b"c" * 400))

    assert (first.status_code, second.status_code, fits.status_code) == (201, 403, 201)
    assert error_of(second)[0] == "DENIED"
    assert "ci would hold 1200 bytes and may hold 1000: delete" in error_of(second)[1]
    assert not held


async def test_a_push_over_the_quota_is_refused_before_a_byte_is_sent(shop: Open) -> None:
    """A push with a known length over the quota is refused before the client sends a byte."""
    async with shop({"users": ["ci"], "max_bytes": 100}) as running:
        await push_blob(running.client, "shop/app", Blob(b"a" * 100))
        started = await running.client.post("/v2/shop/app/blobs/uploads/")

    assert started.status_code == 403


@pytest.mark.parametrize("announced", [True, False])
async def test_an_upload_that_outgrows_the_quota_is_stopped_in_the_middle(shop: Open, announced: bool) -> None:
    """An upload over the quota is stopped at once with a length, and while growing without; its session stays as it
    was."""
    large = Blob(b"x" * (20 * MIB))
    body: Any = large.data if announced else in_pieces(large.data, MIB)
    async with shop({"users": ["ci"], "max_bytes": f"{2 * MIB}"}) as running:
        location = await start_upload(running.client, "shop/app")
        patched = await running.client.patch(location, content=body)
        state = await running.client.get(location)

    assert patched.status_code == 403
    assert state.headers["Range"] == "0-0"


async def test_racing_pushes_can_not_both_take_what_is_left(shop: Open) -> None:
    """Racing pushes are all admitted; the transaction that adds the row refuses those over the quota."""
    blobs = [Blob(bytes([number]) * 600) for number in range(8)]
    async with shop({"users": ["ci"], "max_bytes": 1500}) as running:
        locations = [await start_upload(running.client, f"shop/app{number}") for number in range(len(blobs))]
        for location, blob in zip(locations, blobs, strict=True):
            await running.client.patch(location, content=blob.data)
        ended = await asyncio.gather(
            *(
                running.client.put(with_digest(location, blob.digest))
                for location, blob in zip(locations, blobs, strict=True)
            )
        )

    assert sorted(answer.status_code for answer in ended) == [201] * 2 + [403] * 6


async def test_what_is_deleted_may_be_pushed_again(shop: Open, data: Path) -> None:
    """Deleting content lowers the total, which stays equal to the sum of the rows, so that content may be pushed again."""
    one, two = Blob(b"1" * 600), Blob(b"2" * 600)
    async with shop({"users": ["ci"], "max_bytes": 1000}) as running:
        await push_blob(running.client, "shop/app", one)
        await running.client.delete(f"/v2/shop/app/blobs/{one.digest}")
        again = await blob_answer(running.client, "shop/app", two)
    examined = examine_store(settings_of(data), lambda *_: None)

    assert again.status_code == 201
    assert list(examined.findings) == []


async def test_a_mount_counts_where_it_mounts_to(shop: Open) -> None:
    """A mounted blob counts in the target repository; otherwise one gigabyte could be used a thousand times."""
    blob = Blob(b"m" * 600)
    async with shop({"users": ["ci"], "max_bytes": 1000}) as running:
        await push_blob(running.client, "shop/app", blob)
        mounted = await running.client.post(
            "/v2/shop/other/blobs/uploads/", params={"mount": blob.digest, "from": "shop/app"}
        )
        held = await holds_blob(running.client, "shop/other", blob.digest)

    assert mounted.status_code == 403
    assert not held


async def test_manifests_count_too(shop: Open) -> None:
    """The bytes of manifests count too, and a refused manifest leaves no tag."""
    own = image("one", annotations={"a": "x" * 5000})
    async with shop({"users": ["ci"], "max_bytes": 4000}) as running:
        for blob in own.blobs:
            await push_blob(running.client, "shop/app", blob)
        answer = await running.client.put(
            "/v2/shop/app/manifests/1.4.2", content=own.raw, headers={"content-type": OCI_MANIFEST}
        )
        found = await meaning(running.client, "shop/app", "1.4.2")

    assert answer.status_code == 403
    assert found is None


async def test_a_user_over_the_quota_may_push_stored_content_again(shop: Open) -> None:
    """A lowered quota removes nothing, and a repeated push of stored content succeeds."""
    own = image("one")
    async with shop() as running:
        await push(running.client, "shop/app", "1.4.2", own)
    async with shop({"users": ["ci"], "max_bytes": 1, "max_repositories": 0}) as running:
        again = await running.client.put(
            "/v2/shop/app/manifests/1.4.2", content=own.raw, headers={"content-type": OCI_MANIFEST}
        )
        pulled = await meaning(running.client, "shop/app", "1.4.2")

    assert again.status_code == 201
    assert pulled == own.digest


async def test_one_repository_too_many_is_refused(shop: Open) -> None:
    """A repository over the limit is refused, whether a blob, a mount or a manifest would create it; existing ones
    still work."""
    blob = Blob(b"r" * 10)
    async with shop({"users": ["ci"], "max_repositories": 2}) as running:
        made = [await blob_answer(running.client, f"shop/app{number}", blob) for number in range(3)]
        mounted = await running.client.post(
            "/v2/shop/other/blobs/uploads/", params={"mount": blob.digest, "from": "shop/app0"}
        )
        empty = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
        index = await running.client.put(
            "/v2/shop/third/manifests/latest",
            content=empty,
            headers={"content-type": "application/vnd.oci.image.index.v1+json"},
        )
        goes_on = await blob_answer(running.client, "shop/app0", Blob(b"more"))
        names = (await running.client.get("/v2/_catalog")).json()["repositories"]

    assert [answer.status_code for answer in made] == [201, 201, 403]
    assert (mounted.status_code, index.status_code, goes_on.status_code) == (403, 403, 201)
    assert "ci would have made 3 repositories and may make 2" in error_of(index)[1]
    assert names == ["shop/app0", "shop/app1"]


async def test_the_quota_of_one_user_does_not_affect_another(shop: Open) -> None:
    """A user who has used up a quota does not affect others."""
    async with shop({"users": "*", "max_bytes": 1000}) as running:
        await push_blob(running.client, "shop/app", Blob(b"a" * 1000))
        running.client.auth = httpx2.BasicAuth("ana", "ana")
        other = await blob_answer(running.client, "shop/app", Blob(b"b" * 1000))

    assert other.status_code == 201


async def test_unfinished_uploads_are_counted(shop: Open) -> None:
    """Too many unfinished uploads over all repositories get 429 with Retry-After; other users are not affected."""
    async with shop(max_uploads_per_user=3) as running:
        open_ = [await start_upload(running.client, f"shop/app{number}") for number in range(3)]
        refused = await running.client.post("/v2/shop/app9/blobs/uploads/")
        at_once = await blob_answer(running.client, "shop/app", Blob(b"whole"))
        running.client.auth = httpx2.BasicAuth("ana", "ana")
        other = await running.client.post("/v2/shop/app0/blobs/uploads/")
        running.client.auth = httpx2.BasicAuth("ci", "ci")
        await running.client.delete(open_[0])
        again = await running.client.post("/v2/shop/app0/blobs/uploads/")

    assert (refused.status_code, at_once.status_code, other.status_code, again.status_code) == (429, 429, 202, 202)
    assert error_of(refused)[0] == "TOOMANYREQUESTS"
    assert "you have 3 uploads open" in error_of(refused)[1]
    assert refused.headers["Retry-After"] == "30"


async def test_uploads_from_before_a_restart_are_counted(shop: Open) -> None:
    """Uploads are counted in the store, not in a process: after a restart and across workers."""
    async with shop(max_uploads_per_user=1) as running:
        await start_upload(running.client, "shop/app")
    async with shop(max_uploads_per_user=1) as running:
        refused = await running.client.post("/v2/shop/app/blobs/uploads/")

    assert refused.status_code == 429


async def test_without_users_an_address_is_counted(data: Path) -> None:
    """Without users, unfinished uploads are counted per client address."""
    async with serving_as(
        Settings.model_validate({"server": {"data": data}, "auth": {"max_uploads_per_user": 2}})
    ) as running:
        one, two = (
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=running.app, client=(address, 5)), base_url="http://localhost:5000"
            )
            for address in ("192.0.2.1", "192.0.2.2")
        )
        async with one, two:
            answers = [await one.post("/v2/shop/app/blobs/uploads/") for _ in range(3)]
            other = await two.post("/v2/shop/app/blobs/uploads/")

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert other.status_code == 202


async def test_a_network_of_ipv6_is_counted_as_one(data: Path) -> None:
    """All addresses of one IPv6 /64 network count as one client; another network counts separately."""
    addresses = ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3", "2001:db8:0:2::1")
    answers = []
    async with serving_as(
        Settings.model_validate({"server": {"data": data}, "auth": {"max_uploads_per_user": 2}})
    ) as running:
        for address in addresses:
            transport = httpx2.ASGITransport(app=running.app, client=(address, 5))
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
                answers.append(await client.post("/v2/shop/app/blobs/uploads/"))

    assert [answer.status_code for answer in answers] == [202, 202, 429, 202]


async def test_an_image_has_a_limited_number_of_referrers(data: Path) -> None:
    """Referrers are limited per image because a client reads all of them; a repeated push adds none."""
    async with serving(data, max_referrers_per_image=2) as running:
        one, two = image("one"), image("two")
        await push(running.client, "shop/app", "1.0.0", one)
        await push(running.client, "shop/app", "2.0.0", two)
        notes = [artifact(f"note {number}", subject=one) for number in range(3)]
        for note in notes[:2]:
            await push(running.client, "shop/app", note.digest, note)
        await push(running.client, "shop/app", notes[0].digest, notes[0])
        for blob in notes[2].blobs:
            await push_blob(running.client, "shop/app", blob)
        refused = await running.client.put(
            f"/v2/shop/app/manifests/{notes[2].digest}", content=notes[2].raw, headers={"content-type": OCI_MANIFEST}
        )
        listed = (await running.client.get(f"/v2/shop/app/referrers/{one.digest}")).json()["manifests"]
        await push(running.client, "shop/app", "note", artifact("note", subject=two))

    assert refused.status_code == 403
    assert "has 2 referrers" in error_of(refused)[1]
    assert len(listed) == 2


@pytest.mark.files_only("looks for the files of blobs")
async def test_uploads_filled_concurrently_are_checked_when_they_end(shop: Open, data: Path) -> None:
    """Uploads that are each within the quota when sent are checked again when they end with a request without a body."""
    blobs = [Blob(bytes([number]) * 600) for number in range(4)]
    async with shop({"users": ["ci"], "max_bytes": 1000}) as running:
        locations = [await start_upload(running.client, "shop/app") for _ in blobs]
        ends = []
        for location, blob in zip(locations, blobs, strict=True):
            ends.append((await running.client.patch(location, content=blob.data)).headers["location"])
        answers = [
            await running.client.put(with_digest(end, blob.digest)) for end, blob in zip(ends, blobs, strict=True)
        ]

    assert [answer.status_code for answer in answers] == [201, 403, 403, 403]
    assert stored(data) == {blobs[0].digest}


@pytest.mark.files_only("looks for the files of blobs")
async def test_pieces_smaller_than_the_check_interval_fill_no_disk(shop: Open, data: Path) -> None:
    """Repeated chunks of unannounced length, each a little over the remaining quota, are refused and leave nothing
    stored."""
    blobs = [Blob(bytes([number]) * 5000) for number in range(3)]
    async with shop({"users": ["ci"], "max_bytes": 1000}) as running:
        answers = []
        for blob in blobs:
            location = await start_upload(running.client, "shop/app")
            answers.append(
                await running.client.put(with_digest(location, blob.digest), content=in_pieces(blob.data, 700))
            )

    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert stored(data) == set()


def stored(data: Path) -> set[str]:
    """Return the digests of all bytes in the store, referenced by a row or not."""
    return {f"sha256:{path.name}" for path in (data / "blobs" / "sha256").glob("*/*")}
