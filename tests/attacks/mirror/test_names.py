"""Repository names that try to reach another registry or none, also repeatedly."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from sqlalchemy import select

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.registry.pulls import ManifestUnknown
from boltseal.server.storage.metadata.schema import pulled
from boltseal.server.store_factory import now_us, open_store
from tests.fakes.upstream import FakeUpstream
from tests.images import digest_of, image, push, push_blob
from tests.polling import until
from tests.server.mirror.mirrors import NAME, bare_mirror, mirror_settings, table_of
from tests.server.mirror.observed import rows
from tests.serving import Serving, serving_as


@pytest.mark.parametrize(
    "namespace", ["evil.example", "127.0.0.1:22", "169.254.169.254", "", "up.example.evil", "up.example/..", "[::1]"]
)
async def test_an_unknown_ns_is_asked_nowhere(mirror: Serving, upstream: FakeUpstream, namespace: str) -> None:
    """The mirror contacts only configured upstreams, by their name or their configured host."""
    for path in ("manifests/1", f"blobs/{image('x').digest}", "tags/list", f"referrers/{image('x').digest}"):
        answer = await mirror.client.get(f"/v2/team/app/{path}", params={"ns": namespace})
        assert answer.status_code == 404
    assert (await mirror.client.get("/v2/", params={"ns": namespace})).status_code == 404

    assert upstream.asked == []


async def test_two_ns_parameters_are_refused(mirror: Serving, upstream: FakeUpstream) -> None:
    """Two `ns` parameters are refused, because a proxy and the mirror could each choose a different one."""
    answer = await mirror.client.get(f"/v2/team/app/manifests/1?ns={NAME}&ns=evil.example")

    assert answer.status_code == 400
    assert upstream.asked == []


@pytest.mark.parametrize("namespace", [NAME, "evil.example"])
async def test_ns_on_a_write_is_refused(mirror: Serving, upstream: FakeUpstream, namespace: str) -> None:
    """A write with `ns` is refused and stores nothing, neither locally nor upstream."""
    shown = image("first")
    answers = [
        await mirror.client.put(
            "/v2/team/app/manifests/1",
            params={"ns": namespace},
            content=shown.raw,
            headers={"content-type": shown.media_type},
        ),
        await mirror.client.post("/v2/team/app/blobs/uploads/", params={"ns": namespace}),
        await mirror.client.delete(f"/v2/team/app/manifests/{shown.digest}", params={"ns": namespace}),
    ]

    assert [answer.status_code for answer in answers] == [400] * 3
    assert (await mirror.client.get("/v2/_catalog")).json() == {"repositories": []}
    assert upstream.asked == []


async def test_a_push_under_an_upstreams_name_is_refused(mirror: Serving, upstream: FakeUpstream) -> None:
    """A push to an upstream's repository is refused, so that a pull of it can never return a local image."""
    shown = image("ours")
    put = await mirror.client.put(
        f"/v2/{NAME}/team/app/manifests/1", content=shown.raw, headers={"content-type": shown.media_type}
    )
    begun = await mirror.client.post(f"/v2/{NAME}/team/app/blobs/uploads/")

    assert [put.status_code, begun.status_code] == [403, 403]


async def test_a_blob_of_a_mirror_can_not_be_mounted_without_the_right_to_pull(
    data: Path, upstream: FakeUpstream
) -> None:
    """A blob of a mirrored repository can be mounted only by a user who may pull that repository."""
    shown = upstream.publish("team/app", "1", image("theirs"))
    layer = shown.layers[0]
    async with serving_as(mirror_settings(data, table_of(upstream))) as serving:
        await serving.client.get(f"/v2/{NAME}/team/app/blobs/{layer.digest}")
        await until(lambda: rows(data, "SELECT 1 FROM blob"), "the blob is stored")
        source = {"mount": layer.digest, "from": f"{NAME}/team/app"}
        mounted = await serving.client.post("/v2/shop/app/blobs/uploads/", params=source)
        elsewhere = await serving.client.get(f"/v2/shop/other/blobs/{layer.digest}")

    assert mounted.status_code == 201
    assert elsewhere.status_code == 404


async def test_a_private_blob_is_not_shown_because_an_upstreams_manifest_names_it(
    mirror: Serving, upstream: FakeUpstream
) -> None:
    """An attacker who controls an upstream can name any digest; the blob is served only if upstream sends it."""
    ours = image("secret")
    await push_blob(mirror.client, "shop/private", ours.layers[0])
    upstream.publish("team/app", "1", ours)
    upstream.blobs.clear()
    await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1")
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{ours.layers[0].digest}")

    assert answer.status_code == 404


@pytest.mark.slow
async def test_endless_made_up_tags_leave_nothing_behind(data: Path, upstream: FakeUpstream) -> None:
    """Anonymous requests for tags that do not exist leave no row and no memory, and cause no manifest request."""
    settings = mirror_settings(data, table_of(upstream))
    async with serving_as(settings) as serving:
        await _misses(serving, 0, 200)
        before = _held(upstream)
        await _misses(serving, 200, 700)
        each = (_held(upstream) - before) / 500
        sessions = [*(data / "uploads").iterdir(), *rows(data, "SELECT 1 FROM upload_session")]
    with open_store(settings) as store:
        repositories = await store.database.lookups.content.repository(f"{NAME}/team/app")

    assert upstream.gets() == 0
    assert not repositories
    assert sessions == []
    assert each < 20  # a name, a message and a time; with a traceback it would be hundreds


def _held(upstream: FakeUpstream) -> int:
    """Return the number of stored objects, without unreferenced ones and those that the upstream itself created."""
    upstream.asked.clear()
    gc.collect()
    return len(gc.get_objects())


async def _misses(serving: Serving, first: int, end: int) -> None:
    for start in range(first, end, 100):
        await asyncio.gather(*(_miss(serving, number) for number in range(start, start + 100)))


async def _miss(serving: Serving, number: int) -> None:
    answer = await serving.client.get(f"/v2/{NAME}/team/app/manifests/made-up-{number}")
    assert answer.status_code == 404


async def test_endless_made_up_digests_leave_nothing_behind(mirror: Serving, upstream: FakeUpstream) -> None:
    """Requests for manifests and blobs that do not exist leave neither a row nor a file."""
    for number in range(100):
        digest = digest_of(str(number).encode())
        for kind in ("manifests", "blobs"):
            assert (await mirror.client.get(f"/v2/{NAME}/team/app/{kind}/{digest}")).status_code == 404

    assert [*(mirror.data / "uploads").iterdir(), *rows(mirror.data, "SELECT 1 FROM upload_session")] == []
    assert (await mirror.client.get("/v2/_catalog")).json() == {"repositories": []}


async def test_made_up_digests_do_not_displace_recorded_pulls(data: Path, upstream: FakeUpstream) -> None:
    """Requests for content that does not exist do not displace the recorded pulls, which retention uses."""
    shown = upstream.publish("team/app", "latest", image("pulled"))
    repository = Repository(f"{NAME}/team/app")
    async with bare_mirror(
        mirror_settings(data, table_of(upstream)), now_us, tags=UpstreamTags, pending_limit=1
    ) as bare:
        for number in range(3):
            with pytest.raises(ManifestUnknown):
                await bare.mirror.by_digest(bare.upstream, repository, Digest.of(str(number).encode()))
        await bare.mirror.by_digest(bare.upstream, repository, Digest.parse(shown.digest))
        await bare.uses.write()
        noted = await bare.store.database.read(
            lambda held: held.sql.connection.execute(select(pulled.c.digest)).scalars().all()
        )

    assert noted == [shown.digest]


async def test_a_local_name_is_not_shadowed_by_upstream_nor_upstreams_by_ours(
    data: Path, upstream: FakeUpstream
) -> None:
    """An unqualified name that was ever local stays local; a name under an upstream's prefix is always the upstream's."""
    theirs, ours = image("theirs"), image("ours")
    upstream.publish("shop/app", "1", theirs)
    upstream.publish("library/alpine", "1", theirs)
    async with serving_as(mirror_settings(data, table_of(upstream, root=True))) as serving:
        await push(serving.client, "shop/app", "1", ours)
        at_root = await serving.client.get("/v2/shop/app/manifests/1")
        by_prefix = await serving.client.get(f"/v2/{NAME}/shop/app/manifests/1")
        by_ns = await serving.client.get("/v2/shop/app/manifests/1", params={"ns": NAME})
        foreign = await serving.client.get("/v2/library/alpine/manifests/1")
        ours_by_ns = await serving.client.get("/v2/library/alpine/manifests/1", params={"ns": "127.0.0.1:5000"})

    assert at_root.content == ours.raw
    assert by_prefix.content == by_ns.content == foreign.content == theirs.raw
    assert ours_by_ns.status_code == 404
