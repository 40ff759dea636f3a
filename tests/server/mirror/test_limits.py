"""The limits in an upstream's headers are respected, whatever the body of its answer is."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from boltseal.client.errors import RemoteBusy, RemoteUnavailable
from boltseal.errors import BoltsealError
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.registry.upstream_state import in_force
from boltseal.server.storage.metadata.protocol import NO_PAUSE
from boltseal.server.store_factory import now_us
from tests.fakes.upstream import FakeUpstream, status
from tests.images import Document, digest_of, image, push
from tests.server.mirror.mirrors import NAME, bare_mirror, mirror_settings, mirroring, table_of
from tests.serving import Clock, Serving

AT = f"/v2/{NAME}/team/app/"
BODIES = {
    "empty": b"",
    "OCI error": b'{"errors":[{"code":"TOOMANYREQUESTS","message":"too many requests"}]}',
    "Docker Hub": b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}',
    "HTML": b"<html><body><h1>429 Too Many Requests</h1></body></html>",
    "a page that is too long": b"<p>slow down</p>" * 10_000,
}
SPENT: dict[str, Any] = {"ratelimit_limit": "100;w=21600", "ratelimit_remaining": "0;w=21600"}
PLENTY: dict[str, Any] = {"ratelimit_limit": "100;w=21600", "ratelimit_remaining": "99;w=21600"}


def in_seconds() -> str:
    return "90"


def as_date() -> str:
    return formatdate(time.time() + 90, usegmt=True)


@pytest.fixture
def clock() -> Clock:
    return Clock(now_us())


def paths(shown: Document) -> dict[str, tuple[str, str]]:
    """Return the requests of an image's client, as method and path at the mirror."""
    return {
        "tag by HEAD": ("HEAD", f"{AT}manifests/1.4.2"),
        "manifest": ("GET", f"{AT}manifests/{shown.digest}"),
        "blob": ("GET", f"{AT}blobs/{shown.layers[0].digest}"),
        "tags": ("GET", f"{AT}tags/list"),
        "referrers": ("GET", f"{AT}referrers/{shown.digest}"),
    }


def upstream_key(asked: tuple[str, str]) -> str:
    return f"{asked[0]} {asked[1].replace(f'{NAME}/', '')}"


async def pauses_and_recovers(
    mirror: Serving, upstream: FakeUpstream, clock: Clock, shown: Document, what: str
) -> None:
    """Send a request that upstream refuses for 90 seconds, then all kinds of requests, during and after that time."""
    first = await mirror.client.request(*paths(shown)[what])
    asked = len(upstream.asked)
    others = [await mirror.client.request(*each) for each in paths(shown).values()]
    silent = len(upstream.asked) == asked
    clock.advance(seconds=80)
    still = await mirror.client.get(f"{AT}tags/list")
    silent = silent and len(upstream.asked) == asked
    upstream.answers.clear()
    clock.advance(seconds=11)
    again = [await mirror.client.request(*each) for each in paths(shown).values()]

    assert first.status_code in (403, 429, 503)
    assert [answer.status_code for answer in others] == [503] * len(others)
    assert still.status_code == 503
    assert silent
    assert [answer.status_code for answer in again] == [200] * len(again)


@pytest.mark.parametrize("expected", [in_seconds, as_date])
@pytest.mark.parametrize("body", BODIES)
async def test_retry_after_of_a_429_pauses_the_upstream(
    data: Path, upstream: FakeUpstream, clock: Clock, body: str, expected: Any
) -> None:
    """After a 429 with Retry-After, upstream gets no request until then, whether or not its body explains it."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        key = upstream_key(paths(shown)["manifest"])
        upstream.answers[key] = status(429, BODIES[body], retry_after=expected())

        await pauses_and_recovers(mirror, upstream, clock, shown, "manifest")


@pytest.mark.parametrize("what", ["tag by HEAD", "blob", "tags", "referrers"])
async def test_a_429_with_a_body_counts_for_every_kind_of_request(
    data: Path, upstream: FakeUpstream, clock: Clock, what: str
) -> None:
    """A 429 seen by one kind of request pauses all kinds, because an upstream has one state."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        body = b"" if what.endswith("HEAD") else BODIES["Docker Hub"]
        upstream.answers[upstream_key(paths(shown)[what])] = status(429, body, retry_after="90", **SPENT)

        await pauses_and_recovers(mirror, upstream, clock, shown, what)


@pytest.mark.parametrize("code", [403, 503])
async def test_retry_after_of_other_errors_is_respected(
    data: Path, upstream: FakeUpstream, clock: Clock, code: int
) -> None:
    """Retry-After of a 403, which may be a rate limit, or a 503 pauses the upstream."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers[upstream_key(paths(shown)["blob"])] = status(code, BODIES["HTML"], retry_after="90")

        await pauses_and_recovers(mirror, upstream, clock, shown, "blob")


@pytest.mark.parametrize("body", BODIES)
async def test_retry_after_of_a_token_service_pauses_the_upstream(
    data: Path, upstream: FakeUpstream, clock: Clock, body: str
) -> None:
    """Retry-After of a token service pauses its upstream, which can't be used without a token."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        realm = f'Bearer realm="http://{upstream.authority}/token",service="up"'
        upstream.answers[upstream_key(paths(shown)["manifest"])] = status(401, www_authenticate=realm)
        upstream.answers["GET /token"] = status(429, BODIES[body], retry_after="90")

        await pauses_and_recovers(mirror, upstream, clock, shown, "manifest")


async def test_a_push_through_the_proxy_pauses_the_upstream_and_waits_for_it(
    data: Path, clock: Clock, whole_store: None
) -> None:
    """Pushes and pulls share the state: neither sends requests while the upstream's limit is reached."""
    async with FakeUpstream(takes=True).listening() as upstream:
        upstream.publish("team/app", "1.4.2", image("one"))
        async with mirroring(data, upstream, clock=clock, push=True) as mirror:
            key = "PUT /v2/team/app/manifests/2.0.0"
            upstream.answers[key] = status(429, BODIES["Docker Hub"], retry_after="90")
            refused = await push(mirror.client, f"{NAME}/team/app", "2.0.0", image("two"))
            asked = len(upstream.asked)
            pulled = await mirror.client.get(f"{AT}manifests/1.4.2")
            again = await push(mirror.client, f"{NAME}/team/app", "3.0.0", image("three"))
            silent = len(upstream.asked) == asked
            upstream.answers.clear()
            clock.advance(seconds=91)
            later = await push(mirror.client, f"{NAME}/team/app", "3.0.0", image("three"))

    assert (refused.status_code, pulled.status_code, again.status_code, later.status_code) == (429, 503, 503, 201)
    assert silent


def head_says(upstream: FakeUpstream, shown: Document, **headers: Any) -> None:
    """Return the answer to a HEAD of the tag with these additional headers."""
    upstream.answers["HEAD /v2/team/app/manifests/1.4.2"] = status(
        200, docker_content_digest=shown.digest, content_type=shown.media_type, **headers
    )


async def test_an_answer_that_leaves_no_pulls_ends_pulls_and_nothing_else(
    data: Path, upstream: FakeUpstream, clock: Clock
) -> None:
    """After `ratelimit-remaining: 0` no manifest is fetched; HEADs, blobs and lists, which do not count, continue."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        head_says(upstream, shown, **SPENT)
        head = await mirror.client.head(f"{AT}manifests/1.4.2")
        pulls = [await mirror.client.get(f"{AT}manifests/{name}") for name in ("1.4.2", shown.digest) * 2]
        fetched = upstream.gets("/manifests/")
        blob = await mirror.client.get(f"{AT}blobs/{shown.layers[0].digest}")
        tags = await mirror.client.get(f"{AT}tags/list")
        head_says(upstream, shown, **PLENTY)
        again = await mirror.client.get(f"{AT}manifests/1.4.2")

    assert (head.status_code, blob.status_code, tags.status_code) == (200, 200, 200)
    assert [answer.status_code for answer in pulls] == [429] * 4
    assert "no pulls are left" in pulls[0].text
    assert fetched == 0
    assert again.content == shown.raw


async def test_the_last_pull_is_served_completely(data: Path, upstream: FakeUpstream, clock: Clock) -> None:
    """The manifest with which the limit is used up is served with its blobs, and the next is not fetched."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    other = upstream.publish("team/app", None, image("two"))
    key = f"GET /v2/team/app/manifests/{shown.digest}"
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers[key] = status(200, shown.raw, content_type=shown.media_type, **SPENT)
        last = await mirror.client.get(f"{AT}manifests/{shown.digest}")
        blobs = [await mirror.client.get(f"{AT}blobs/{blob.digest}") for blob in shown.blobs]
        over = await mirror.client.get(f"{AT}manifests/{other.digest}")
        clock.advance(seconds=61)
        tried = await mirror.client.get(f"{AT}manifests/{other.digest}")

    assert last.content == shown.raw
    assert [answer.status_code for answer in blobs] == [200] * len(blobs)
    assert (over.status_code, tried.status_code) == (429, 200)


@pytest.mark.parametrize("headers", [SPENT, {}], ids=["with what is left", "with a body alone"])
async def test_the_pull_limit_without_a_time_pauses_pulls_for_a_minute(
    data: Path, upstream: FakeUpstream, clock: Clock, headers: dict[str, Any]
) -> None:
    """After Docker Hub's pull limit (429), no manifest is fetched for a minute, but HEADs are sent."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    other = upstream.publish("team/app", None, image("two"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        key = f"GET /v2/team/app/manifests/{shown.digest}"
        upstream.answers[key] = status(429, BODIES["Docker Hub"], **headers)
        first = await mirror.client.get(f"{AT}manifests/{shown.digest}")
        fetched = upstream.gets("/manifests/")
        others = [await mirror.client.get(f"{AT}manifests/{each.digest}") for each in (shown, other) * 5]
        asked_more = upstream.gets("/manifests/") - fetched
        head = await mirror.client.head(f"{AT}manifests/1.4.2")

    assert first.status_code == 429
    assert {answer.status_code for answer in others} == {429}
    assert asked_more == 0
    assert head.status_code == 200


@pytest.mark.parametrize("later", [RemoteUnavailable("maintenance", 0.0), RemoteBusy("no time stated")])
async def test_a_failure_of_a_concurrent_request_does_not_shorten_the_wait(
    data: Path, upstream: FakeUpstream, clock: Clock, later: BoltsealError
) -> None:
    """Of concurrent failures of one upstream, the longest stated wait counts."""
    settings = mirror_settings(data, table_of(upstream))
    async with bare_mirror(settings, clock, tags=UpstreamTags) as bare:
        limits = bare.mirror._limits
        await limits.failed(bare.upstream, RemoteBusy("slow down", 600.0))
        await limits.failed(bare.upstream, later)
        clock.advance(seconds=599)
        waiting = await limits.backoff_reason(bare.upstream)
        clock.advance(seconds=1)
        over = await limits.backoff_reason(bare.upstream)

    assert waiting is not None
    assert over is None


async def test_requests_at_once_wait_for_the_first_answer(data: Path, upstream: FakeUpstream, clock: Clock) -> None:
    """A limit that the first answer states applies to all of them; so it does after a pause."""
    upstream.answers["*"] = status(429, BODIES["Docker Hub"], retry_after="90")
    async with mirroring(data, upstream, clock=clock) as mirror:

        async def pulled() -> list[int]:
            tags = (mirror.client.get(f"{AT}manifests/1.{number}.0") for number in range(20))
            return [answer.status_code for answer in await asyncio.gather(*tags)]

        first = await pulled()
        asked = len(upstream.asked)
        clock.advance(seconds=91)
        second = await pulled()

    assert sorted(set(first)) == sorted(set(second)) == [429, 503]
    assert (asked, len(upstream.asked)) == (1, 2)


@pytest.mark.parametrize("what", ["tag by HEAD", "blob", "tags", "referrers"])
async def test_a_429_that_leaves_no_pulls_counts_for_the_request_that_got_it(
    data: Path, upstream: FakeUpstream, clock: Clock, what: str
) -> None:
    """An upstream that twice refuses requests that are no pulls gets no request for a minute, whatever it says is left."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers["*"] = status(429, BODIES["Docker Hub"], **SPENT)
        first = [await mirror.client.request(*paths(shown)[what]) for _ in range(2)]
        asked = len(upstream.asked)
        others = [await mirror.client.request(*each) for each in paths(shown).values()]
        silent = len(upstream.asked) == asked
        upstream.answers.clear()
        clock.advance(seconds=61)
        again = [await mirror.client.request(*each) for each in paths(shown).values()]

    assert [answer.status_code for answer in first] == [429, 429]
    assert asked == 2
    assert silent
    assert [answer.status_code for answer in others] == [429] * len(others)
    assert [answer.status_code for answer in again] == [200] * len(again)


async def test_all_workers_share_the_pauses_of_an_upstream(data: Path, upstream: FakeUpstream, clock: Clock) -> None:
    """What one process has learned of a limit, the others follow; so does a process that starts later."""
    settings = mirror_settings(data, table_of(upstream))
    async with bare_mirror(settings, clock, tags=UpstreamTags) as bare:
        states = bare.store.registry.upstreams
        one, two = (UpstreamLimits(states, clock=clock, on_event=lambda _: None) for _ in range(2))
        await one.failed(bare.upstream, RemoteBusy("slow down", 600.0))
        await one.failed(bare.upstream, RemoteBusy("no pulls are left", pulls=True), pull=True)
        waiting, spent = await two.backoff_reason(bare.upstream), await two.no_pulls_reason(bare.upstream)
        clock.advance(seconds=600)
        over = await two.backoff_reason(bare.upstream)

    assert waiting is not None
    assert "600 s" in waiting
    assert spent is not None
    assert over is None


async def test_an_upstream_that_keeps_failing_is_left_alone_for_a_moment(
    data: Path, upstream: FakeUpstream, clock: Clock
) -> None:
    """After three failures in a row clients are answered at once; the first success ends it, and metrics show it."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers["*"] = status(500)
        failed = [await mirror.client.get(f"{AT}blobs/{digest_of(str(number).encode())}") for number in range(3)]
        asked = len(upstream.asked)
        refused = [await mirror.client.request(*each) for each in paths(shown).values()]
        silent = len(upstream.asked) == asked
        metrics = (await mirror.client.get("/metrics")).text
        upstream.answers.clear()
        clock.advance(seconds=6)
        again = [await mirror.client.request(*each) for each in paths(shown).values()]

    assert [answer.status_code for answer in (*failed, *refused)] == [503] * (3 + len(refused))
    assert silent
    assert f'boltseal_upstream_wait_seconds{{upstream="{NAME}"}} 5.0' in metrics
    assert [answer.status_code for answer in again] == [200] * len(again)


@pytest.mark.parametrize("expected", ["0", "Mon, 30 Nov 2020 12:00:00 GMT"], ids=["no seconds", "a time in the past"])
async def test_a_429_whose_wait_is_over_still_pauses_the_upstream(
    data: Path, upstream: FakeUpstream, clock: Clock, expected: str
) -> None:
    """A 429 always pauses an upstream for a moment: its clock may differ from ours, or its Retry-After be 0."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    async with mirroring(data, upstream, clock=clock) as mirror:
        upstream.answers["*"] = status(429, BODIES["Docker Hub"], retry_after=expected)
        first = await mirror.client.request(*paths(shown)["blob"])
        asked = len(upstream.asked)
        refused = [await mirror.client.request(*each) for each in paths(shown).values()]
        silent = len(upstream.asked) == asked
        upstream.answers.clear()
        clock.advance(seconds=2)
        again = [await mirror.client.request(*each) for each in paths(shown).values()]

    assert first.status_code == 429
    assert silent
    assert [answer.status_code for answer in refused] == [503] * len(refused)
    assert [answer.status_code for answer in again] == [200] * len(again)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_pause_by_a_clock_that_was_ahead_ends_with_the_clock(
    data: Path, upstream: FakeUpstream, clock: Clock, *, restarted: bool
) -> None:
    """A clock that was 400 days ahead for a while must not keep an upstream paused for 400 days, and new pauses count."""
    settings = mirror_settings(data, table_of(upstream))
    async with bare_mirror(settings, clock, tags=UpstreamTags) as bare:
        states = bare.store.registry.upstreams
        limits = UpstreamLimits(states, clock=clock, on_event=lambda _: None)
        clock.advance(seconds=400 * 86_400)
        await limits.failed(bare.upstream, RemoteBusy("slow down", 600.0))
        await limits.failed(bare.upstream, RemoteBusy("no pulls are left", pulls=True), pull=True)
        clock.advance(seconds=-400 * 86_400)
        if restarted:
            limits = UpstreamLimits(states, clock=clock, on_event=lambda _: None)
        stepped_back = await limits.backoff_reason(bare.upstream), await limits.no_pulls_reason(bare.upstream)
        shown = states.pauses_and_wait()[NAME]
        await limits.failed(bare.upstream, RemoteBusy("slow down", 600.0))
        waiting = await limits.backoff_reason(bare.upstream)
        other = await UpstreamLimits(states, clock=clock, on_event=lambda _: None).backoff_reason(bare.upstream)

    assert stepped_back == (None, None)
    assert in_force(shown, clock()) == NO_PAUSE
    assert waiting is not None
    assert waiting == other
