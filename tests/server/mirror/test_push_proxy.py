"""The push proxy: pushes to an upstream's names are checked by the local rules, forwarded, and then published locally."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.upstream import Asked, FakeUpstream, status
from tests.images import (
    error_of,
    image,
    index,
    layer,
    meaning,
    push,
    push_blob,
    push_parts,
    put,
    signature,
    signature_tag,
    start_upload,
    with_digest,
)
from tests.polling import until
from tests.server.mirror.mirrors import NAME, mirror_settings, mirroring, table_of
from tests.server.mirror.observed import observed
from tests.server.mirror.push_proxies import APP, PUT, entries, reserved, tags_upstream
from tests.serving import Serving, serving_as


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """An upstream that accepts pushes."""
    async with FakeUpstream(takes=True).listening() as listening:
        yield listening


@pytest.fixture
async def gate(data: Path, upstream: FakeUpstream, whole_store: None) -> AsyncIterator[Serving]:
    """A push proxy for it."""
    async with mirroring(data, upstream, push=True) as serving:
        yield serving


# --- forwarded ---


async def test_a_tag_of_an_upstream_never_settles(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """The upstream has no such state: a rule with `settle` seals its tags at once."""
    settings = mirror_settings(data, table_of(upstream, push=True), rule=[{"settle": "60s"}])
    async with serving_as(settings) as gate:
        app = image("app")
        answer = await push(gate.client, APP, "1.4.2", app)
        refused = await push(gate.client, APP, "1.4.2", index(app))

    assert "boltseal-ledger-index" in answer.headers
    assert refused.status_code == 409
    assert "this client pushes every part of an image" in error_of(refused)[1]
    assert tags_upstream(upstream) == {"1.4.2": app.digest}


async def test_a_push_is_forwarded_and_recorded(gate: Serving, data: Path, upstream: FakeUpstream) -> None:
    """Blobs, manifest and tag are stored upstream, locally, and in the ledger, whose entry the 201 names."""
    app = image("app")
    answer = await push(gate.client, APP, "1.4.2", app)
    pulled = await gate.client.get(f"/v2/{APP}/manifests/1.4.2")

    assert answer.status_code == 201
    assert "boltseal-ledger-index" in answer.headers
    assert tags_upstream(upstream) == {"1.4.2": app.digest}
    assert {blob.digest for blob in app.blobs} <= upstream.blobs.keys()
    assert pulled.content == app.raw
    assert entries(data) == [("tag.created", "1.4.2", app.digest, "anonymous")]
    assert [(entry.digest, entry.reason) for entry in observed(data)] == [(app.digest, "pushed through the push proxy")]
    assert reserved(data) == []


async def test_blobs_are_sent_upstream_as_they_arrive(gate: Serving, upstream: FakeUpstream) -> None:
    """Blobs are sent upstream as they arrive, before any manifest."""
    blob = layer("early")
    assert (await push_blob(gate.client, APP, blob)).status_code == 201

    await until(lambda: blob.digest in upstream.blobs, "the upstream has the blob")


async def test_blobs_that_upstream_has_elsewhere_are_mounted(gate: Serving, upstream: FakeUpstream) -> None:
    """A blob that upstream has in another repository is mounted, and its bytes are sent once."""
    app = image("app")
    await push(gate.client, APP, "1.4.2", app)
    sent = sum(asked.method == "PUT" and "/blobs/" in asked.target for asked in upstream.asked)
    # The fake has its content in every repository, so its answers here are those of a registry that distinguishes them.
    for blob in app.blobs:
        upstream.answers[f"HEAD /v2/team/other/blobs/{blob.digest}"] = status(404)
    answer = await push(gate.client, f"{NAME}/team/other", "1.4.2", app)
    mounts = [asked.query("from") for asked in upstream.asked if asked.method == "POST" and asked.query("mount")]

    assert answer.status_code == 201
    assert mounts == ["team/app"] * len(app.blobs)
    assert sum(asked.method == "PUT" and "/blobs/" in asked.target for asked in upstream.asked) == sent


async def test_an_index_is_forwarded_after_its_children(gate: Serving, data: Path, upstream: FakeUpstream) -> None:
    """An index is forwarded after its children, which go by digest."""
    both = index(image("amd64"), image("arm64", architecture="arm64"))
    answer = await push(gate.client, APP, "1.4.2", both)

    assert answer.status_code == 201
    assert tags_upstream(upstream) == {"1.4.2": both.digest}
    assert {child.digest for child in both.children} <= upstream.manifests["team/app"].keys()


async def test_content_that_upstream_lost_is_sent_again(gate: Serving, upstream: FakeUpstream) -> None:
    """A blob or child that upstream has lost since is sent again."""
    both = index(image("amd64"))
    await push_parts(gate.client, APP, both)
    upstream.blobs.clear()
    upstream.manifests.clear()
    async with mirroring(gate.data, upstream, push=True) as restarted:
        answer = await put(restarted.client, APP, "1.4.2", both)

    assert answer.status_code == 201
    assert both.children[0].digest in upstream.manifests["team/app"]
    assert {blob.digest for blob in both.children[0].blobs} <= upstream.blobs.keys()


async def test_a_floating_tag_is_forwarded_each_time(gate: Serving, data: Path, upstream: FakeUpstream) -> None:
    """A mutable tag is forwarded at each push, and the new image is served at once, whatever the window."""
    one, two = image("one"), image("two")
    async with mirroring(data, upstream, push=True, fresh="10m") as fresh:
        await push(fresh.client, APP, "latest", one)
        before = await meaning(fresh.client, APP, "latest")
        await push(fresh.client, APP, "latest", two)
        after = await meaning(fresh.client, APP, "latest")

    assert (before, after) == (one.digest, two.digest)
    assert tags_upstream(upstream) == {"latest": two.digest}
    assert [kind for kind, *_ in entries(data)] == ["tag.created", "tag.moved"]


# --- decided by the rules ---


async def test_a_sealed_tag_is_refused_by_the_local_rules(gate: Serving, data: Path, upstream: FakeUpstream) -> None:
    """A second push of other content to a sealed tag never reaches upstream; the same content gets 201 with its entry."""
    one, two = image("one"), image("two")
    first = await push(gate.client, APP, "1.4.2", one)
    refused = await push(gate.client, APP, "1.4.2", two)
    again = await push(gate.client, APP, "1.4.2", one)

    assert (refused.status_code, error_of(refused)[0]) == (409, "DENIED")
    assert one.digest[:19] in error_of(refused)[1]
    assert (again.status_code, again.headers["boltseal-ledger-index"]) == (201, first.headers["boltseal-ledger-index"])
    assert tags_upstream(upstream) == {"1.4.2": one.digest}
    assert upstream.counted[PUT] == 1
    assert reserved(data) == []


async def test_a_sealed_tag_that_differs_upstream_is_refused_with_both_digests(
    gate: Serving, data: Path, upstream: FakeUpstream
) -> None:
    """If upstream has another image for a sealed tag, the push is refused with both digests and leaves nothing."""
    theirs, ours = image("theirs"), image("ours")
    upstream.publish("team/app", "1.4.2", theirs)
    refused = await push(gate.client, APP, "1.4.2", ours)

    assert (refused.status_code, error_of(refused)[0]) == (409, "DENIED")
    assert theirs.digest in error_of(refused)[1]
    assert ours.digest in error_of(refused)[1]
    assert tags_upstream(upstream) == {"1.4.2": theirs.digest}
    assert entries(data) == []
    assert reserved(data) == []


async def test_a_sealed_tag_that_upstream_has_already_is_published(
    gate: Serving, data: Path, upstream: FakeUpstream
) -> None:
    """If upstream already has the same image, the push gets 201, and no PUT is sent."""
    app = image("app")
    upstream.publish("team/app", "1.4.2", app)
    answer = await push(gate.client, APP, "1.4.2", app)

    assert answer.status_code == 201
    assert upstream.counted[PUT] == 0
    assert [kind for kind, *_ in entries(data)] == ["tag.created"]


async def test_a_sealed_tag_is_kept_whatever_upstream_does_later(gate: Serving, upstream: FakeUpstream) -> None:
    """A sealed tag that was changed directly upstream keeps its image locally."""
    app = image("app")
    await push(gate.client, APP, "1.4.2", app)
    upstream.publish("team/app", "1.4.2", image("past the gate"))

    assert await meaning(gate.client, APP, "1.4.2") == app.digest


async def test_signatures_grow_and_nothing_of_them_is_lost(gate: Serving, upstream: FakeUpstream) -> None:
    """An append-only tag that was changed directly upstream is not overwritten."""
    app = image("app")
    await push(gate.client, APP, "1.4.2", app)
    tag = signature_tag(app)
    one, both, other = signature(app, "a"), signature(app, "a", "b"), signature(app, "a", "c")
    assert (await push(gate.client, APP, tag, one)).status_code == 201
    assert (await push(gate.client, APP, tag, both)).status_code == 201
    upstream.publish("team/app", tag, other)
    refused = await push(gate.client, APP, tag, signature(app, "a", "b", "d"))

    assert refused.status_code == 409
    assert tags_upstream(upstream)[tag] == other.digest


async def test_conditions_apply_to_what_upstream_has(gate: Serving, upstream: FakeUpstream) -> None:
    """If-Match and If-None-Match also consider a tag that only upstream has."""
    theirs, ours = image("theirs"), image("ours")
    upstream.publish("team/app", "latest", theirs)
    await push_parts(gate.client, APP, ours)
    taken = await put(gate.client, APP, "latest", ours, headers={"if-none-match": "*"})
    other = await put(gate.client, APP, "latest", ours, headers={"if-match": f'"{ours.digest}"'})
    moved = await put(gate.client, APP, "latest", ours, headers={"if-match": f'"{theirs.digest}"'})

    assert [answer.status_code for answer in (taken, other, moved)] == [412, 412, 201]
    assert tags_upstream(upstream) == {"latest": ours.digest}


async def test_a_push_names_one_tag(gate: Serving, upstream: FakeUpstream) -> None:
    """A push with several tags is refused, because upstream might accept only one."""
    app = image("app")
    await push_parts(gate.client, APP, app)
    answer = await gate.client.put(
        f"/v2/{APP}/manifests/{app.digest}?tag=1.4.2&tag=1.4.3",
        content=app.raw,
        headers={"content-type": app.media_type},
    )

    assert answer.status_code == 400
    assert tags_upstream(upstream) == {}


async def test_without_push_nothing_is_forwarded(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """Without `push = true`, a mirror forwards no push."""
    async with mirroring(data, upstream) as mirror:
        answer = await put(mirror.client, APP, "1.4.2", image("app"))

    assert answer.status_code == 403
    assert upstream.asked == []


async def test_the_server_starts_again_after_a_push(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """After a push through the proxy, the repository does not count as a local one, so that the server starts."""
    app = image("app")
    async with mirroring(data, upstream, push=True) as gate:
        await push(gate.client, APP, "1.4.2", app)
    async with mirroring(data, upstream, push=True) as gate:
        assert await meaning(gate.client, APP, "1.4.2") == app.digest


# --- several proxies before one upstream ---


async def test_a_push_that_another_proxy_overtook_upstream_is_refused(
    gate: Serving, data: Path, upstream: FakeUpstream
) -> None:
    """Upstream ignores `If-None-Match` and has the other image: nothing is sealed here that upstream does not have."""
    app, other = image("app"), image("of another proxy")

    async def overtake(asked: Asked, writer: asyncio.StreamWriter) -> None:
        upstream.publish("team/app", "1.4.2", other)
        await status(201, docker_content_digest=app.digest)(asked, writer)

    upstream.after[PUT] = overtake
    refused = await push(gate.client, APP, "1.4.2", app)
    upstream.after.clear()
    again = await push(gate.client, APP, "1.4.2", other)

    assert refused.status_code == 409
    assert f"another client pushed {other.digest}" in error_of(refused)[1]
    assert again.status_code == 201
    assert entries(data) == [("tag.created", "1.4.2", other.digest, "anonymous")]
    assert reserved(data) == []


async def test_two_proxies_that_push_one_tag_at_once_accept_one_image(
    tmp_path: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """Each checks upstream before it sends the manifest and after it: what was accepted is what upstream has."""
    documents = [image("one"), image("two")]
    async with (
        mirroring(tmp_path / "a", upstream, push=True) as one,
        mirroring(tmp_path / "b", upstream, push=True) as two,
    ):
        pushes = (push(gate.client, APP, "1.4.2", each) for gate, each in zip((one, two), documents, strict=True))
        answers = await asyncio.gather(*pushes)
    accepted = [each.digest for each, answer in zip(documents, answers, strict=True) if answer.status_code == 201]

    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert list(tags_upstream(upstream).values()) == accepted


async def test_a_blob_that_is_pushed_in_chunks_goes_upstream_whole(gate: Serving, upstream: FakeUpstream) -> None:
    """Docker sends a layer by PATCH; upstream gets it in one request, and the image with it."""
    app = image("in chunks")
    for blob in app.blobs:
        location = await start_upload(gate.client, APP)
        for start in range(0, len(blob.data), 50):
            chunk = blob.data[start : start + 50]
            sent = await gate.client.patch(
                location, content=chunk, headers={"content-type": "application/octet-stream"}
            )
            location = sent.headers["location"]
        done = await gate.client.put(with_digest(location, blob.digest))
        assert done.status_code == 201
    answer = await put(gate.client, APP, "1.4.2", app)

    assert answer.status_code == 201
    assert tags_upstream(upstream) == {"1.4.2": app.digest}
    assert {blob.digest for blob in app.blobs} <= upstream.blobs.keys()
