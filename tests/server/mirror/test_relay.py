"""Lists of an upstream's tags and referrers: fetched once per window, and served from the store without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.mirror.errors import UpstreamFailed
from boltseal.server.mirror.upstream_lists import ListBounds
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.settings import Settings
from boltseal.server.store_factory import now_us
from tests.fakes.upstream import FakeUpstream, status
from tests.images import OCI_INDEX, SBOM_TYPE, artifact, image, index, to_json
from tests.server.mirror.mirrors import NAME, BareMirror, bare_mirror, mirror_settings, table_of
from tests.serving import Clock, Serving, serving_as

NOW_US = 1_795_500_000_000_000
APP = Repository(f"{NAME}/team/app")


@pytest.fixture
def clock() -> Clock:
    """The mirror's clock."""
    return Clock(NOW_US)


@pytest.fixture
def settings(data: Path, upstream: FakeUpstream) -> Settings:
    """Settings with which upstream is asked every ten minutes."""
    return mirror_settings(data, table_of(upstream, fresh="10m"))


@pytest.fixture
async def timed(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    """A mirror that uses that clock."""
    async with serving_as(settings, clock=clock) as serving:
        yield serving


async def tags(client: httpx2.AsyncClient, **params: str) -> httpx2.Response:
    return await client.get(f"/v2/{NAME}/team/app/tags/list", params=params)


async def test_the_tags_of_a_repository_are_upstreams(timed: Serving, upstream: FakeUpstream) -> None:
    """The tags of a mirrored repository are all pages of upstream's, sorted, under the local name."""
    upstream.page = 2
    for tag in ("b", "a", "c", "e", "d"):
        upstream.publish("team/app", tag, image(tag))
    answer = await tags(timed.client)

    assert answer.json() == {"name": f"{NAME}/team/app", "tags": ["a", "b", "c", "d", "e"]}
    assert "link" not in answer.headers


async def test_tags_are_paged_by_the_mirror(timed: Serving, upstream: FakeUpstream) -> None:
    """`n` and `last` work as in the spec, and the Link refers to the mirror."""
    for tag in ("a", "b", "c"):
        upstream.publish("team/app", tag, image(tag))
    first = await tags(timed.client, n="2")
    second = await timed.client.get(first.headers["link"].partition(">")[0].removeprefix("<"))
    none = await tags(timed.client, n="0")

    assert (first.json()["tags"], second.json()["tags"], none.json()["tags"]) == (["a", "b"], ["c"], [])
    assert "link" not in second.headers
    assert "link" not in none.headers


async def test_a_list_is_fetched_once_per_window(timed: Serving, upstream: FakeUpstream, clock: Clock) -> None:
    """A list is fetched once per window for all clients."""
    upstream.publish("team/app", "a", image("a"))
    await asyncio.gather(*(tags(timed.client, n=str(n)) for n in range(20)))
    await tags(timed.client)
    in_window = upstream.gets("/tags/")
    clock.advance(seconds=601)
    upstream.publish("team/app", "b", image("b"))

    assert in_window == 1
    assert (await tags(timed.client)).json()["tags"] == ["a", "b"]


async def test_the_last_list_is_served_if_upstream_is_down(
    timed: Serving, upstream: FakeUpstream, clock: Clock
) -> None:
    """If upstream is down the last list is served with a warning."""
    upstream.publish("team/app", "a", image("a"))
    await tags(timed.client)
    clock.advance(seconds=601)
    upstream.answers["*"] = status(500)
    answer = await tags(timed.client)

    assert answer.json()["tags"] == ["a"]
    assert answer.headers["warning"].startswith('299 - "')


@pytest.mark.slow
async def test_a_failed_list_is_not_an_empty_list(timed: Serving, upstream: FakeUpstream) -> None:
    """An unknown repository is a miss, and a failed list is an error, never an empty list."""
    unknown = await tags(timed.client)
    upstream.answers["*"] = status(500)
    failed = await tags(timed.client)
    referrers = await timed.client.get(f"/v2/{NAME}/team/app/referrers/{image('x').digest}")

    assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
    assert failed.status_code == 503
    assert referrers.status_code == 503


async def test_referrers_are_those_of_upstream(timed: Serving, upstream: FakeUpstream) -> None:
    """Upstream's referrers are filtered and paged by the mirror."""
    subject = upstream.publish("team/app", "1", image("subject"))
    sbom, other = artifact("sbom", subject=subject), artifact("other", subject=subject, artifact_type="text/other")
    entries = [sbom.descriptor(artifactType=SBOM_TYPE), other.descriptor(artifactType="text/other")]
    listed = to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    upstream.referrers[subject.digest] = listed
    path = f"/v2/{NAME}/team/app/referrers/{subject.digest}"
    both = await timed.client.get(path)
    one = await timed.client.get(path, params={"artifactType": SBOM_TYPE})
    page = await timed.client.get(path, params={"n": "1"})

    assert {each["digest"] for each in both.json()["manifests"]} == {sbom.digest, other.digest}
    assert [each["digest"] for each in one.json()["manifests"]] == [sbom.digest]
    assert one.headers["oci-filters-applied"] == "artifactType"
    assert len(page.json()["manifests"]) == 1
    assert "link" in page.headers
    assert upstream.gets("/referrers/") == 1


async def test_the_fallback_tag_replaces_the_referrers_api(timed: Serving, upstream: FakeUpstream) -> None:
    """For an upstream without the referrers API, the fallback tag is read as the spec describes."""
    subject = upstream.publish("team/app", "1", image("subject"))
    sbom = artifact("sbom", subject=subject)
    upstream.publish("team/app", subject.digest.replace(":", "-"), index(sbom))
    answer = await timed.client.get(f"/v2/{NAME}/team/app/referrers/{subject.digest}")

    assert [each["digest"] for each in answer.json()["manifests"]] == [sbom.digest]


async def test_stored_referrers_are_listed_if_upstream_is_down(data: Path, upstream: FakeUpstream) -> None:
    """If upstream is down, stored referrers are listed, also after a restart, with a warning that others may exist."""
    subject = image("subject")
    sbom = upstream.publish("team/app", None, artifact("sbom", subject=subject))
    settings = mirror_settings(data, table_of(upstream))
    async with serving_as(settings) as serving:
        await serving.client.get(f"/v2/{NAME}/team/app/manifests/{sbom.digest}")
    upstream.answers["*"] = status(503)
    async with serving_as(settings) as serving:
        answer = await serving.client.get(f"/v2/{NAME}/team/app/referrers/{subject.digest}")

    assert [each["digest"] for each in answer.json()["manifests"]] == [sbom.digest]
    assert "warning" in answer.headers


def bare(settings: Settings, lists: ListBounds) -> AbstractAsyncContextManager[BareMirror[UpstreamTags]]:
    """Return a mirror whose lists have these limits."""
    return bare_mirror(settings, now_us, tags=UpstreamTags, lists=lists)


async def test_an_endless_list_is_abandoned(settings: Settings, upstream: FakeUpstream) -> None:
    """An endless list is abandoned by its length, or by its time."""
    for tag in ("a", "b", "c", "d"):
        upstream.publish("team/app", tag, image(tag))
    subject = image("subject")
    both = index(artifact("one", subject=subject), artifact("two", subject=subject))
    upstream.referrers[subject.digest] = both.raw
    async with bare(settings, ListBounds(names=3, referrers=1)) as short:
        with pytest.raises(UpstreamFailed, match="more than 3 tags"):
            await short.mirror.lists.tags(short.upstream, APP)
        with pytest.raises(UpstreamFailed, match="more than 1 referrers"):
            await short.mirror.lists.referrers(short.upstream, APP, Digest.parse(subject.digest))
    async with bare(settings, ListBounds(timeout_s=0.0)) as hasty:
        with pytest.raises(UpstreamFailed, match="in time"):
            await hasty.mirror.lists.tags(hasty.upstream, APP)


async def test_the_cache_of_lists_is_bounded(settings: Settings, upstream: FakeUpstream) -> None:
    """A full cache of lists drops its oldest."""
    for repository in ("team/app", "team/b", "team/c", "team/d"):
        upstream.publish(repository, "a", image("a"))
    async with bare(settings, ListBounds(cache_bytes=650)) as small:  # three lists of one short tag
        for repository in ("team/app", "team/b", "team/b", "team/c", "team/d", "team/app"):
            await small.mirror.lists.tags(small.upstream, Repository(f"{NAME}/{repository}"))

    assert upstream.counted["GET /v2/team/app/tags/list"] == 2
    assert upstream.counted["GET /v2/team/b/tags/list"] == 1


async def test_the_annotations_of_referrers_count(settings: Settings, upstream: FakeUpstream) -> None:
    """The annotations of referrers count for the size of a list, and a list too large is not cached."""
    subject = image("subject")
    entry = artifact("sbom", subject=subject).descriptor(annotations={"note": "x" * 10_000})
    listed = to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    upstream.referrers[subject.digest] = listed
    async with bare(settings, ListBounds(cache_bytes=10_000)) as small:
        for _ in range(2):
            await small.mirror.lists.referrers(small.upstream, APP, Digest.parse(subject.digest))

    assert upstream.gets("/referrers/") == 2
