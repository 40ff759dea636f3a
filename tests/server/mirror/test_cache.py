"""Images of an upstream, served from the store: which requests upstream gets, and how many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from tests.asgi import send
from tests.fakes.upstream import FakeUpstream, raw, status
from tests.images import digest_of, image, index
from tests.server.mirror.mirrors import NAME, mirroring
from tests.serving import Serving

BIG = bytes(range(256)) * 4096 * 3  # 3 MiB


async def pull(client: httpx2.AsyncClient, repository: str, reference: str) -> httpx2.Response:
    return await client.get(f"/v2/{repository}/manifests/{reference}")


async def test_an_image_is_pulled_through_its_prefix(mirror: Serving, upstream: FakeUpstream) -> None:
    """Manifest, config and layers are pulled by the upstream's prefix, byte for byte."""
    shown = upstream.publish("team/app", "1.4.2", image("first"))

    answer = await pull(mirror.client, f"{NAME}/team/app", "1.4.2")
    blobs = [await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{blob.digest}") for blob in shown.blobs]

    assert (answer.status_code, answer.content) == (200, shown.raw)
    assert answer.headers["content-type"] == shown.media_type
    assert answer.headers["docker-content-digest"] == shown.digest
    assert answer.headers["cache-control"] == "no-store"
    assert "warning" not in answer.headers
    assert [blob.content for blob in blobs] == [blob.data for blob in shown.blobs]


async def test_the_second_pull_fetches_no_bytes(mirror: Serving, upstream: FakeUpstream) -> None:
    """A manifest is fetched only if its digest is new, and each blob once."""
    shown = upstream.publish("team/app", "1.4.2", image("first"))
    for _ in range(3):
        await pull(mirror.client, f"{NAME}/team/app", "1.4.2")
        for blob in shown.blobs:
            await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{blob.digest}")

    assert upstream.gets("/manifests/") == 1
    assert upstream.gets("/blobs/") == len(shown.blobs)
    assert upstream.counted[f"GET /v2/team/app/manifests/{shown.digest}"] == 1


async def test_a_tag_that_moved_is_followed(mirror: Serving, upstream: FakeUpstream) -> None:
    """After a tag moved, its former image can be pulled by digest."""
    first = upstream.publish("team/app", "latest", image("first"))
    await pull(mirror.client, f"{NAME}/team/app", "latest")
    second = upstream.publish("team/app", "latest", image("second"))
    upstream.manifests["team/app"].pop(first.digest)

    assert (await pull(mirror.client, f"{NAME}/team/app", "latest")).content == second.raw
    assert (await pull(mirror.client, f"{NAME}/team/app", first.digest)).content == first.raw


async def test_the_children_of_an_index_are_fetched_on_request(mirror: Serving, upstream: FakeUpstream) -> None:
    """An index is served without its children, each of which is fetched when it is requested."""
    amd64, arm64 = image("amd64"), image("arm64", architecture="arm64")
    shown = upstream.publish("team/app", "1.4.2", index(amd64, arm64))

    assert (await pull(mirror.client, f"{NAME}/team/app", "1.4.2")).content == shown.raw
    assert (await pull(mirror.client, f"{NAME}/team/app", arm64.digest)).content == arm64.raw
    assert upstream.gets("/manifests/") == 2


async def test_a_head_of_a_tag_costs_upstream_no_manifest(mirror: Serving, upstream: FakeUpstream) -> None:
    """HEAD of a tag is answered from one upstream HEAD, without fetching the manifest."""
    shown = upstream.publish("team/app", "1.4.2", image("first"))
    answer = await mirror.client.head(f"/v2/{NAME}/team/app/manifests/1.4.2")

    assert answer.status_code == 200
    assert answer.headers["docker-content-digest"] == shown.digest
    assert answer.headers["content-length"] == str(len(shown.raw))
    assert answer.headers["content-type"] == shown.media_type
    assert upstream.gets() == 0


async def test_concurrent_clients_of_one_blob_are_one_request(mirror: Serving, upstream: FakeUpstream) -> None:
    """Concurrent clients of one blob cause one upstream request, and each gets the complete blob."""
    upstream.blobs[digest_of(BIG)] = BIG
    upstream.slow_s = 0.1
    target = f"/v2/{NAME}/team/app/blobs/{digest_of(BIG)}"
    answers = await asyncio.gather(*(send(mirror.app, "GET", target) for _ in range(50)))

    assert {answer.status for answer in answers} == {200}
    assert all(answer.body == BIG for answer in answers)
    assert upstream.gets("/blobs/") == 1


async def test_concurrent_clients_of_one_manifest_are_one_request(mirror: Serving, upstream: FakeUpstream) -> None:
    """Concurrent clients of one manifest that is not stored cause one upstream request."""
    shown = upstream.publish("team/app", None, image("first"))
    answers = await asyncio.gather(*(pull(mirror.client, f"{NAME}/team/app", shown.digest) for _ in range(50)))

    assert {answer.content for answer in answers} == {shown.raw}
    assert upstream.gets("/manifests/") == 1


async def test_a_head_and_a_range_wait_for_the_whole_blob(mirror: Serving, upstream: FakeUpstream) -> None:
    """HEAD and range requests wait for the complete blob, because a part can't be verified alone."""
    upstream.blobs[digest_of(BIG)] = BIG
    target = f"/v2/{NAME}/team/app/blobs/{digest_of(BIG)}"
    head, part = await asyncio.gather(
        mirror.client.head(target), mirror.client.get(target, headers={"range": "bytes=10-19"})
    )

    assert (head.status_code, head.headers["content-length"]) == (200, str(len(BIG)))
    assert (part.status_code, part.content) == (206, BIG[10:20])
    assert upstream.gets("/blobs/") == 1


async def test_content_that_upstream_lacks_is_a_miss(mirror: Serving, upstream: FakeUpstream) -> None:
    """For content that upstream lacks, the error codes are the spec's, whatever upstream's were."""
    target = f"/v2/{NAME}/team/app"
    answers = [
        await mirror.client.get(f"{target}/manifests/nothing"),
        await mirror.client.get(f"{target}/manifests/{digest_of(b'no')}"),
        await mirror.client.get(f"{target}/blobs/{digest_of(b'no')}"),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert [answer.json()["errors"][0]["code"] for answer in answers] == [
        "MANIFEST_UNKNOWN",
        "MANIFEST_UNKNOWN",
        "BLOB_UNKNOWN",
    ]


@pytest.mark.parametrize("code", [400, 401, 403, 409, 429, 500, 503])
async def test_stored_content_is_served_whatever_upstream_answers(
    mirror: Serving, upstream: FakeUpstream, code: int
) -> None:
    """Stored content is served whatever upstream answers, with a warning and a metric."""
    shown = upstream.publish("team/app", "1.4.2", image("first"))
    await pull(mirror.client, f"{NAME}/team/app", "1.4.2")
    upstream.answers["*"] = status(code)
    answer = await pull(mirror.client, f"{NAME}/team/app", "1.4.2")
    metrics = (await mirror.client.get("/metrics")).text

    assert (answer.status_code, answer.content) == (200, shown.raw)
    assert answer.headers["warning"].startswith(f'299 - "{NAME} ')
    assert "boltseal_mirror_served_with_warning_total 1.0" in metrics


@pytest.mark.parametrize(
    ("code", "expected_status"), [(400, 503), (401, 403), (403, 403), (409, 503), (429, 429), (500, 503)]
)
@pytest.mark.slow
async def test_a_failing_upstream_is_not_a_miss(
    mirror: Serving, upstream: FakeUpstream, code: int, expected_status: int
) -> None:
    """Without a stored copy, the client gets upstream's error if it can act on it, and else a temporary one."""
    limit = {"ratelimit_remaining": "0;w=21600"} if code == 429 else {}
    upstream.answers["*"] = status(code, b"", **limit)
    answers = [
        await pull(mirror.client, f"{NAME}/team/app", "1.4.2"),
        await pull(mirror.client, f"{NAME}/team/app", digest_of(b"no")),
        await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{digest_of(b'no')}"),
    ]

    assert {answer.status_code for answer in answers} == {expected_status}
    assert all("www-authenticate" not in answer.headers for answer in answers)


@pytest.mark.slow
async def test_a_new_image_that_can_not_be_fetched_leaves_the_former_one_served(
    mirror: Serving, upstream: FakeUpstream
) -> None:
    """If upstream reports a moved tag but not its manifest, the former image is served."""
    first = upstream.publish("team/app", "latest", image("first"))
    await pull(mirror.client, f"{NAME}/team/app", "latest")
    second = upstream.publish("team/app", "latest", image("second"))
    upstream.answers[f"GET /v2/team/app/manifests/{second.digest}"] = status(500)
    answer = await pull(mirror.client, f"{NAME}/team/app", "latest")

    assert (answer.status_code, answer.content) == (200, first.raw)
    assert "warning" in answer.headers


async def test_a_broken_connection_is_resumed(mirror: Serving, upstream: FakeUpstream) -> None:
    """After a broken connection, only the missing bytes are fetched."""
    digest = digest_of(BIG)
    upstream.blobs[digest] = BIG
    half = len(BIG) // 2
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(BIG)}\r\n\r\n".encode()

    async def breaks(asked: object, writer: asyncio.StreamWriter) -> None:
        upstream.answers.clear()
        await raw(head, BIG[:half])(asked, writer)  # type: ignore[arg-type]

    upstream.answers[f"GET /v2/team/app/blobs/{digest}"] = breaks
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{digest}")

    assert answer.content == BIG
    assert 0 < int(upstream.asked[-1].headers["range"].removeprefix("bytes=").removesuffix("-")) <= half


async def test_a_blob_of_two_repositories_is_fetched_once(mirror: Serving, upstream: FakeUpstream) -> None:
    """A blob of two repositories is fetched once, if upstream confirms that the second has it."""
    blob = image("base").layers[0]
    upstream.blobs[blob.digest] = blob.data
    for repository in ("team/app", "team/other"):
        answer = await mirror.client.get(f"/v2/{NAME}/{repository}/blobs/{blob.digest}")
        assert answer.content == blob.data

    assert upstream.gets("/blobs/") == 1
    assert upstream.counted[f"HEAD /v2/team/other/blobs/{blob.digest}"] == 1


async def test_repositories_of_a_mirror_are_isolated(mirror: Serving, upstream: FakeUpstream) -> None:
    """A blob is not served from a repository in which upstream does not have it."""
    shown = upstream.publish("team/app", "1.4.2", image("first"))
    blob = shown.layers[0]
    await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{blob.digest}")
    for method in ("GET", "HEAD"):
        upstream.answers[f"{method} /v2/team/other/blobs/{blob.digest}"] = status(404)

    assert (await mirror.client.get(f"/v2/{NAME}/team/other/blobs/{blob.digest}")).status_code == 404
    assert (await mirror.client.get(f"/v2/team/app/blobs/{blob.digest}")).status_code == 404


async def test_a_read_only_mirror_serves_what_it_has(data: Path, upstream: FakeUpstream) -> None:
    """A read-only mirror serves stored content; for other content, the error says that it is read-only."""
    shown = upstream.publish("team/app", "1.4.2", image("first"))
    other = upstream.publish("team/app", "2.0.0", image("other"))
    async with mirroring(data, upstream) as serving:
        await pull(serving.client, f"{NAME}/team/app", "1.4.2")
    async with mirroring(data, upstream, server={"read_only": True}) as serving:
        here = await pull(serving.client, f"{NAME}/team/app", "1.4.2")
        absent = await pull(serving.client, f"{NAME}/team/app", other.digest)

    assert here.content == shown.raw
    assert absent.status_code == 503
    assert "read-only" in absent.text
