"""Tags of an upstream: how often upstream is asked, what is recorded, and what is served when a tag moves or
disappears."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.events import Event, QuotaLow, TagHeld, TagMoved, UpstreamDown
from boltseal.oci.reference import Repository, Tag
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.store_factory import now_us
from tests.fakes.upstream import FakeUpstream, status
from tests.images import Document, error_of, image
from tests.server.mirror.mirrors import NAME, bare_mirror, mirror_settings, mirroring, table_of
from tests.server.mirror.observed import observed, rows, story
from tests.serving import Clock, Serving

FRESH = "10m"
HEAD = "HEAD /v2/team/app/manifests/1.4.2"


async def pull(client: httpx2.AsyncClient, tag: str = "1.4.2") -> httpx2.Response:
    return await client.get(f"/v2/{NAME}/team/app/manifests/{tag}")


def publish(upstream: FakeUpstream, salt: str, tag: str = "1.4.2") -> Document:
    return upstream.publish("team/app", tag, image(salt))


@pytest.fixture
def clock() -> Clock:
    return Clock(now_us())


async def test_one_head_per_tag_and_window_for_all_clients(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None
) -> None:
    """Whatever the number of clients, each tag costs one HEAD per window."""
    shown = publish(upstream, "one")
    async with mirroring(data, upstream, clock=clock, fresh=FRESH) as mirror:
        answers = await asyncio.gather(*(pull(mirror.client) for _ in range(50)))
        answers += [await pull(mirror.client) for _ in range(5)]
        first = upstream.counted[HEAD]
        clock.advance(seconds=599)
        await pull(mirror.client)
        still = upstream.counted[HEAD]
        clock.advance(seconds=1)
        await asyncio.gather(*(pull(mirror.client) for _ in range(20)))

    assert {answer.content for answer in answers} == {shown.raw}
    assert (first, still, upstream.counted[HEAD]) == (1, 1, 2)
    assert upstream.gets("/manifests/") == 1
    assert story(data) == [("observed", shown.digest, "")]


async def test_one_head_for_all_workers_together(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """Two processes of one store send one HEAD together."""
    publish(upstream, "one")
    async with (
        mirroring(data, upstream, fresh=FRESH) as one,
        mirroring(data, upstream, fresh=FRESH) as two,
    ):
        await asyncio.gather(*(pull(worker.client) for worker in (one, two) * 20))

    assert upstream.counted[HEAD] == 1
    assert len(observed(data)) == 1


@pytest.mark.slow
async def test_observations_survive_a_restart(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """After a restart no request is sent within the window; later, tags are served although upstream is down."""
    shown = publish(upstream, "one")
    async with mirroring(data, upstream, fresh=FRESH) as mirror:
        await pull(mirror.client)
    async with mirroring(data, upstream, fresh=FRESH) as mirror:
        fresh = await pull(mirror.client)
    upstream.answers["*"] = status(503)
    async with mirroring(data, upstream) as mirror:
        stale = await pull(mirror.client)

    assert (fresh.content, stale.content) == (shown.raw, shown.raw)
    assert "warning" not in fresh.headers
    assert f"{NAME} failed on manifest 1.4.2" in stale.headers["warning"] or "127.0.0.1" in stale.headers["warning"]


async def test_requests_for_missing_tags_leave_nothing(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """Anonymous requests for tags that upstream lacks leave no row and no entry."""
    publish(upstream, "one")
    async with mirroring(data, upstream, fresh=FRESH) as mirror:
        before = rows(data, "SELECT (SELECT count(*) FROM observation), (SELECT count(*) FROM foreign_tag)")
        answers = [await pull(mirror.client, f"made-up-{n}") for n in range(50)]
        again = await pull(mirror.client, "made-up-0")
    after = rows(data, "SELECT (SELECT count(*) FROM observation), (SELECT count(*) FROM foreign_tag)")

    assert {answer.status_code for answer in [*answers, again]} == {404}
    assert after == before == [(1, 0)]
    assert upstream.counted["HEAD /v2/team/app/manifests/made-up-0"] == 1


async def test_a_moved_release_tag_is_followed_and_reported(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """For a release tag `alert` is the default; moves of other tags are only recorded."""
    reported: list[Event] = []
    first = publish(upstream, "one")
    publish(upstream, "one", "latest")
    async with mirroring(data, upstream, on_event=reported.append) as mirror:
        await pull(mirror.client)
        await pull(mirror.client, "latest")
        second = publish(upstream, "two")
        publish(upstream, "two", "latest")
        answers = [await pull(mirror.client), await pull(mirror.client, "latest")]
        old = await mirror.client.get(f"/v2/{NAME}/team/app/manifests/{first.digest}")
    (event,) = reported
    assert isinstance(event, TagMoved)

    assert {answer.content for answer in answers} == {second.raw}
    assert old.content == first.raw
    assert str(event.reference) == f"{NAME}/team/app:1.4.2"
    assert (str(event.was), str(event.now), event.release, event.seen_by) == (
        first.digest,
        second.digest,
        True,
        "mirror",
    )
    assert len(observed(data)) == 4


async def test_a_move_is_held_and_accepted_after_its_cooldown(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None
) -> None:
    """A held move is served after its cooldown of a week; until then, the old image has a warning with the new digest."""
    reported: list[Event] = []
    rule = [{"tag": "*", "on_move": "hold", "cooldown": "7d"}]
    first = publish(upstream, "one")
    async with mirroring(data, upstream, clock=clock, on_event=reported.append, fresh=FRESH, rule=rule) as mirror:
        await pull(mirror.client)
        second = publish(upstream, "two")
        clock.advance(hours=1)
        held = await pull(mirror.client)
        inside = await pull(mirror.client)
        clock.advance(days=7)
        after = await pull(mirror.client)

    assert (held.content, inside.content, after.content) == (first.raw, first.raw, second.raw)
    assert "which is held" in held.headers["warning"]
    assert "which is held" in inside.headers["warning"]
    assert "warning" not in after.headers
    assert story(data) == [
        ("observed", first.digest, ""),
        ("held", second.digest, first.digest),
        ("accepted", second.digest, first.digest),
    ]
    assert [type(event) for event in reported] == [TagHeld, TagMoved]


async def test_the_first_observation_is_held_where_the_rule_requires_it(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """A held first observation gets 403 with what to do."""
    publish(upstream, "one")
    async with mirroring(data, upstream, rule=[{"first_seen": "hold"}]) as mirror:
        answer = await pull(mirror.client)

    assert answer.status_code == 403
    assert f"boltseal tag accept {NAME}/team/app:1.4.2" in answer.json()["errors"][0]["message"]
    assert upstream.gets() == 0
    assert [kind for kind, *_ in story(data)] == ["held"]


@pytest.mark.parametrize(("on_gone", "code"), [("serve", 200), ("alert", 200), ("stop", 404)])
async def test_a_deleted_tag_is_served_as_configured(
    data: Path, upstream: FakeUpstream, whole_store: None, on_gone: str, code: int
) -> None:
    """A tag deleted upstream is recorded once, and served or not as configured."""
    reported: list[Event] = []
    publish(upstream, "one")
    async with mirroring(data, upstream, on_event=reported.append, on_gone=on_gone) as mirror:
        await pull(mirror.client)
        del upstream.manifests["team/app"]["1.4.2"]
        answers = [await pull(mirror.client) for _ in range(3)]

    assert {answer.status_code for answer in answers} == {code}
    assert code == 404 or "no longer exists" in answers[0].headers["warning"]
    assert [kind for kind, *_ in story(data)] == ["observed", "observed"]
    assert observed(data)[1].digest == ""
    assert [isinstance(event, TagMoved) and event.now is None for event in reported] == [True] * (on_gone != "serve")


async def test_the_moves_of_an_oscillating_tag_are_limited(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None
) -> None:
    """After 144 changes in a day, a tag keeps its last recorded digest, with a warning."""
    one, two = image("one"), image("two")
    async with mirroring(data, upstream, clock=clock) as mirror:
        for number in range(200):
            shown = upstream.publish("team/app", "edge", two if number % 2 else one)
            answer = await pull(mirror.client, "edge")
            if number < 144:
                assert answer.content == shown.raw
            clock.advance(seconds=60)

    assert len(observed(data)) == 144
    assert answer.content == two.raw
    assert "warning" not in answer.headers


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
@pytest.mark.slow
async def test_stored_tags_are_served_whatever_upstream_answers(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None, code: int
) -> None:
    """Whatever upstream answers, stored tags are served with a warning, without a request for every client."""
    shown = publish(upstream, "one")
    async with mirroring(data, upstream, fresh="1s", clock=clock) as mirror:
        await pull(mirror.client)
        clock.advance(seconds=2)
        upstream.answers["*"] = status(code)
        answers = [await pull(mirror.client) for _ in range(10)]

    assert {answer.content for answer in answers} == {shown.raw}
    assert all("warning" in answer.headers for answer in answers)
    assert len(upstream.asked) <= 3 + 3


async def test_a_tag_that_can_not_be_recorded_is_not_served(data: Path, upstream: FakeUpstream) -> None:
    """While the log is frozen, recorded tags are served, moves are not followed, and new tags are refused."""
    first = publish(upstream, "one")
    async with mirroring(data, upstream) as mirror:
        await pull(mirror.client)
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection, connection:
        connection.execute("UPDATE observation_head SET size = 1")
        connection.execute("DELETE FROM observation WHERE idx = 1")
    publish(upstream, "two")
    publish(upstream, "three", "9.9.9")
    async with mirroring(data, upstream) as mirror:
        known, unknown = await pull(mirror.client), await pull(mirror.client, "9.9.9")
        ready = await mirror.client.get("/readyz")

    assert known.content == first.raw, known.text
    assert "the log takes no entries" in known.headers["warning"]
    assert unknown.status_code == 503
    assert "observations of upstreams' tags are not recorded" in ready.text


async def test_the_pull_limit_is_read_reported_and_stored_for_all_workers(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """`ratelimit-remaining` below the reserve is reported once, for all workers."""
    reported: list[Event] = []
    shown = publish(upstream, "one")

    def left(number: int) -> None:
        upstream.answers["HEAD /v2/team/app/manifests/1.4.2"] = status(
            200,
            docker_content_digest=shown.digest,
            content_type=shown.media_type,
            ratelimit_limit="100;w=21600",
            ratelimit_remaining=f"{number};w=21600",
            docker_ratelimit_source="192.0.2.1",
        )

    async with mirroring(data, upstream, on_event=reported.append, reserve=20) as mirror:
        for number in (50, 21, 20, 19, 70, 3):
            left(number)
            await mirror.client.head(f"/v2/{NAME}/team/app/manifests/1.4.2")
        metrics = (await mirror.client.get("/metrics")).text
    kept = rows(data, "SELECT name, quota_limit, quota_remaining, quota_window_s, quota_source FROM upstream")

    assert kept == [(NAME, 100, 3, 21600, "192.0.2.1")]
    assert [(type(event), getattr(event, "remaining", None)) for event in reported] == [(QuotaLow, 20), (QuotaLow, 3)]
    assert f'boltseal_upstream_pulls_remaining{{upstream="{NAME}"}} 3.0' in metrics
    assert f'boltseal_upstream_up{{upstream="{NAME}"}} 1.0' in metrics


@pytest.mark.slow
@pytest.mark.parametrize("what", ["manifests", "blobs", "tags", "referrers"])
async def test_a_bare_429_of_any_request_pauses_the_upstream(
    data: Path, upstream: FakeUpstream, clock: Clock, what: str
) -> None:
    """After a 429 without details for any kind of request, nothing is sent to the upstream."""
    there = publish(upstream, "one")
    at = f"/v2/{NAME}/team/app/"
    paths = {
        "manifests": f"{at}manifests/{there.digest}",
        "blobs": f"{at}blobs/{there.layers[0].digest}",
        "tags": f"{at}tags/list",
        "referrers": f"{at}referrers/{there.digest}",
    }
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers[f"GET {paths[what].replace(f'{NAME}/', '')}"] = status(429, retry_after="90")
        first = await mirror.client.get(paths[what])
        asked = len(upstream.asked)
        others = [await mirror.client.get(path) for path in paths.values()]
        silent = len(upstream.asked) == asked
        upstream.answers.clear()
        clock.advance(seconds=91)
        again = [await mirror.client.get(path) for path in paths.values()]

    assert first.status_code == 429
    assert [answer.status_code for answer in others] == [503] * 4
    assert silent
    assert [answer.status_code for answer in again] == [200] * 4


async def test_a_bare_429_pauses_all_requests_and_the_pull_limit_only_pulls(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None
) -> None:
    """A 429 without details pauses all requests, and the pull limit pauses pulls only."""
    for tag in ("1.0.0", "2.0.0", "3.0.0"):
        publish(upstream, tag, tag)
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers["HEAD /v2/team/app/manifests/1.0.0"] = status(
            429, ratelimit_limit="100;w=21600", ratelimit_remaining="0;w=21600"
        )
        limited = await pull(mirror.client, "1.0.0")
        goes_on = await pull(mirror.client, "2.0.0")
        upstream.answers["HEAD /v2/team/app/manifests/1.0.0"] = status(429, retry_after="90")
        await pull(mirror.client, "1.0.0")
        asked = len(upstream.asked)
        rests = await pull(mirror.client, "3.0.0")
        served = await pull(mirror.client, "2.0.0")
        silent = len(upstream.asked) == asked
        clock.advance(seconds=91)
        again = await pull(mirror.client, "3.0.0")

    assert (limited.status_code, goes_on.status_code) == (429, 200)
    assert rests.status_code == 503
    assert "request limit is reached" in served.headers["warning"]
    assert silent
    assert again.status_code == 200


@pytest.mark.slow
async def test_an_upstream_that_is_down_is_notified_once(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None
) -> None:
    """An unreachable upstream is reported once, and again only after it was reachable."""
    reported: list[Event] = []
    async with mirroring(data, upstream, on_event=reported.append, clock=clock) as mirror:
        for _ in range(2):
            upstream.answers["*"] = status(503)
            for number in range(5):
                await pull(mirror.client, f"{number}.0.0")
            metrics = (await mirror.client.get("/metrics")).text
            upstream.answers.clear()
            clock.advance(seconds=6)
            await pull(mirror.client, "9.0.0")

    assert [type(event) for event in reported] == [UpstreamDown, UpstreamDown]
    assert f'boltseal_upstream_up{{upstream="{NAME}"}} 0.0' in metrics
    assert rows(data, "SELECT down_us FROM upstream") == [(None,)]


async def test_a_slow_upstream_delays_no_stored_tag(
    data: Path, upstream: FakeUpstream, clock: Clock, whole_store: None
) -> None:
    """If upstream is slow, the recorded digest is served after a few seconds."""
    shown = publish(upstream, "one")

    async def never(*_: object) -> None:
        await asyncio.sleep(60)  # the slow upstream

    settings = mirror_settings(data, table_of(upstream))
    async with bare_mirror(settings, clock, tags=UpstreamTags) as bare:
        before = await bare.mirror.by_tag(bare.upstream, Repository(f"{NAME}/team/app"), Tag("1.4.2"))
    upstream.answers[HEAD] = never
    async with bare_mirror(settings, clock, tags=UpstreamTags, timeout_s=0.05) as bare:
        after = await bare.mirror.by_tag(bare.upstream, Repository(f"{NAME}/team/app"), Tag("1.4.2"))

    assert before.warning is None
    assert after.answer.raw == shown.raw
    assert "did not answer within" in (after.warning or "")


async def test_a_new_image_that_can_not_be_fetched_leaves_the_former_one_served(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """When the pull limit is reached and a tag moved, its former image is served, also after a restart."""
    first = publish(upstream, "one")
    async with mirroring(data, upstream) as mirror:
        await pull(mirror.client)
    second = publish(upstream, "two")
    upstream.answers[f"GET /v2/team/app/manifests/{second.digest}"] = status(429, ratelimit_remaining="0;w=21600")
    async with mirroring(data, upstream) as mirror:
        limited = [await pull(mirror.client) for _ in range(2)]
        upstream.answers.clear()
        after = await pull(mirror.client)

    assert {answer.content for answer in limited} == {first.raw}
    assert "has a rate limit" in limited[0].headers["warning"]
    assert after.content == second.raw


async def test_a_read_only_mirror_serves_stored_tags_and_writes_nothing(data: Path, upstream: FakeUpstream) -> None:
    """A read-only mirror serves stored tags with a warning that upstream was not asked, and fetches nothing."""
    first = publish(upstream, "one")
    publish(upstream, "nine", "9.9.9")
    async with mirroring(data, upstream) as mirror:
        await pull(mirror.client)
    publish(upstream, "two")
    asked = len(upstream.asked)
    async with mirroring(data, upstream, server={"data": data, "read_only": True}) as mirror:
        known, unknown = await pull(mirror.client), await pull(mirror.client, "9.9.9")

    assert known.content == first.raw
    assert "read-only" in known.headers["warning"]
    assert unknown.status_code == 503
    assert len(upstream.asked) == asked
    assert len(observed(data)) == 1


async def test_a_move_that_can_not_be_written_to_a_full_disk_is_not_followed(
    data: Path, upstream: FakeUpstream
) -> None:
    """If the database is full, the recorded digest is served, new tags are refused (507), and nothing is half written."""
    first = publish(upstream, "one")
    async with mirroring(data, upstream) as mirror:
        await pull(mirror.client)
        database = mirror.app._store.database  # type: ignore[attr-defined]  # the application keeps it for itself
        await database.write(lambda tx: tx.sql.connection.exec_driver_sql("PRAGMA max_page_count = 1"))
        codes = Counter[int]()
        for number in range(400):
            publish(upstream, f"{number}", f"{number}.0.0")
            answer = await mirror.client.head(f"/v2/{NAME}/team/app/manifests/{number}.0.0")
            codes[answer.status_code] += 1
            if codes[507] == 3:
                break
        publish(upstream, "two")
        known = await pull(mirror.client)
        await database.write(lambda tx: tx.sql.connection.exec_driver_sql("PRAGMA max_page_count = 1000000"))
        after = await pull(mirror.client)

    assert set(codes) == {200, 507}
    assert known.content == first.raw
    assert "no space left" in known.headers["warning"]
    assert after.status_code == 200
    assert len(observed(data)) == 2 + codes[200]


async def test_the_tag_history_of_a_mirrored_name_is_what_it_was_served_as(data: Path, upstream: FakeUpstream) -> None:
    """The tag history of distribution-spec PR #606 lists what a mirrored tag was served as, the newest first."""
    async with mirroring(data, upstream) as mirror:
        first = publish(upstream, "one")
        await pull(mirror.client)
        second = publish(upstream, "two")
        await pull(mirror.client)
        del upstream.manifests["team/app"]["1.4.2"]
        await pull(mirror.client)
        path = f"/v2/{NAME}/team/app/_oci/tag-history/1.4.2"
        result = (await mirror.client.get(path)).json()["manifests"]
        of_first = (await mirror.client.get(path, params={"digest": first.digest})).json()["manifests"]
        nothing = (await mirror.client.get(f"/v2/{NAME}/team/app/_oci/tag-history/9.9.9")).json()["manifests"]
    event = "org.opencontainers.distribution.tag.event"

    assert [(one["digest"], one["annotations"][event]) for one in result] == [
        (second.digest, "deleted"),
        (second.digest, "created"),
        (first.digest, "created"),
    ]
    assert {one["mediaType"] for one in result} == {second.media_type}
    assert [one["digest"] for one in of_first] == [first.digest]
    assert nothing == []


async def test_a_clock_that_is_set_back_extends_no_window(data: Path, upstream: FakeUpstream, clock: Clock) -> None:
    """Setting the clock back extends the window of neither an answer nor a failure."""
    shown = publish(upstream, "one")
    async with mirroring(data, upstream, clock=clock, fresh=FRESH) as mirror:
        missing = await pull(mirror.client, "2.0.0")
        await pull(mirror.client)
        asked = len(upstream.asked)
        publish(upstream, "two", "2.0.0")
        clock.advance(seconds=-120)
        found, again = await pull(mirror.client, "2.0.0"), await pull(mirror.client)

    assert (missing.status_code, found.status_code) == (404, 200)
    assert again.content == shown.raw
    assert upstream.counted["HEAD /v2/team/app/manifests/2.0.0"] == 2
    assert upstream.counted[HEAD] == 2
    assert len(upstream.asked) > asked


# --- upstreams whose answer to a HEAD has no digest ---


async def test_a_tag_is_resolved_by_one_get_where_heads_state_no_digest(
    mirror: Serving, upstream: FakeUpstream
) -> None:
    """The digest is that of the bytes, which are not fetched again to serve them."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    upstream.answers["HEAD /v2/team/app/manifests/1.4.2"] = status(200, content_type=shown.media_type)
    upstream.answers["GET /v2/team/app/manifests/1.4.2"] = status(200, shown.raw, content_type=shown.media_type)
    pulled = await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1.4.2")
    missing = await mirror.client.get(f"/v2/{NAME}/team/app/manifests/9.9.9")

    assert (pulled.status_code, pulled.content) == (200, shown.raw)
    assert pulled.headers["docker-content-digest"] == shown.digest
    assert upstream.gets("/manifests/") == 1
    assert missing.status_code == 404


async def test_a_get_whose_bytes_contradict_its_digest_is_not_used(mirror: Serving, upstream: FakeUpstream) -> None:
    """An upstream that states a digest for a GET only must keep to it; the error names the upstream as configured."""
    shown, other = image("one"), image("two")
    upstream.answers["HEAD /v2/team/app/manifests/1.4.2"] = status(200, content_type=shown.media_type)
    upstream.answers["GET /v2/team/app/manifests/1.4.2"] = status(
        200, shown.raw, content_type=shown.media_type, docker_content_digest=other.digest
    )
    pulled = await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1.4.2")

    assert pulled.status_code == 503
    assert error_of(pulled)[1].startswith(f"{NAME} answered manifest 1.4.2 of team/app with bytes of digest")
    assert upstream.authority not in pulled.text
