"""The push proxy when upstream fails, when pushes race, and when a client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.server.storage.garbage_collection import HIDDEN_BLOB, GarbageItem
from boltseal.server.store_factory import collect_store, now_us
from tests.fakes.upstream import Asked, FakeUpstream, status
from tests.images import (
    error_of,
    image,
    meaning,
    push,
    push_parts,
    put,
)
from tests.polling import until
from tests.server.mirror.mirrors import mirror_settings, mirroring, table_of
from tests.server.mirror.observed import rows
from tests.server.mirror.push_proxies import APP, HEAD, PUT, entries, reserved, tags_upstream
from tests.serving import Clock, Serving, serving_as, settings_of

HOUR_S = 3600


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


# --- upstream fails ---


@pytest.mark.parametrize(("code", "ours"), [(401, 403), (403, 403), (404, 403), (400, 400), (413, 400), (429, 429)])
@pytest.mark.slow
async def test_a_refusal_of_upstream_is_passed_on(
    gate: Serving, data: Path, upstream: FakeUpstream, code: int, ours: int
) -> None:
    """Upstream's refusal is passed on, never as 401, which would ask for this registry's login; nothing is stored."""
    app = image("app")
    await push_parts(gate.client, APP, app)
    upstream.answers[PUT] = status(code)
    answer = await put(gate.client, APP, "1.4.2", app)

    assert answer.status_code == ours
    assert entries(data) == []
    assert reserved(data) == []


@pytest.mark.slow
async def test_an_upstream_that_is_down_refuses_the_push(data: Path, upstream: FakeUpstream, whole_store: None) -> None:
    """If upstream is down, a push gets 503, and nothing is stored for later."""
    async with mirroring(data, upstream, push=True) as gate:
        app = image("app")
        await push_parts(gate.client, APP, app)
        upstream.answers["*"] = status(503)
        answer = await put(gate.client, APP, "1.4.2", app)
        pulled = await gate.client.get(f"/v2/{APP}/manifests/1.4.2")

    assert (answer.status_code, pulled.status_code) == (503, 503)
    assert entries(data) == []
    assert reserved(data) == []


@pytest.mark.slow
async def test_a_failed_put_leaves_nothing(gate: Serving, data: Path, upstream: FakeUpstream) -> None:
    """If upstream answers a PUT with 500 and does not have it, nothing is stored."""
    app = image("app")
    await push_parts(gate.client, APP, app)
    upstream.answers[PUT] = status(500)
    answer = await put(gate.client, APP, "1.4.2", app)
    upstream.answers.clear()
    again = await put(gate.client, APP, "1.4.2", app)

    assert (answer.status_code, again.status_code) == (503, 201)
    assert reserved(data) == []


@pytest.mark.slow
async def test_a_put_whose_answer_is_lost_is_confirmed_by_head(
    gate: Serving, data: Path, upstream: FakeUpstream
) -> None:
    """If the answer to a PUT is lost, a HEAD shows that it succeeded, and the client gets 201."""
    app = image("app")
    await push_parts(gate.client, APP, app)
    upstream.after[PUT] = status(500)
    answer = await put(gate.client, APP, "1.4.2", app)

    assert answer.status_code == 201
    assert [kind for kind, *_ in entries(data)] == ["tag.created"]
    assert reserved(data) == []


@pytest.mark.slow
async def test_an_undecided_push_stays_reserved_and_is_not_served(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """If upstream stops answering after a PUT, the client gets 503; the next push, or the proxy a minute later, finds
    out."""
    clock = Clock(now_us())
    app, other = image("app"), image("other")
    async with mirroring(data, upstream, push=True, clock=clock) as gate:
        await push_parts(gate.client, APP, app)
        await push_parts(gate.client, APP, other)

        async def gone(_: Asked, writer: asyncio.StreamWriter) -> None:
            upstream.answers[HEAD] = status(503)
            writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")

        upstream.after[PUT] = gone
        answer = await put(gate.client, APP, "1.4.2", app)
        left = reserved(data)
        served = await gate.client.get(f"/v2/{APP}/manifests/1.4.2")
        waits = await put(gate.client, APP, "1.4.2", other)
        upstream.answers.clear()
        refused = await put(gate.client, APP, "1.4.2", other)

    assert (answer.status_code, served.status_code, waits.status_code) == (503, 503, 503)
    assert left == [(APP, "1.4.2", app.digest)]
    assert "the process of an earlier push of" in error_of(waits)[1]
    assert (refused.status_code, app.digest[:19] in error_of(refused)[1]) == (409, True)
    assert [(kind, digest) for kind, _, digest, _ in entries(data)] == [("tag.created", app.digest)]
    assert reserved(data) == []


@pytest.mark.slow
async def test_a_reservation_blocks_no_push_after_an_hour(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """A reservation whose outcome can't be asked for an hour blocks no other push."""
    clock = Clock(now_us())
    app, other = image("app"), image("other")
    head = HEAD.replace("1.4.2", "latest")
    async with mirroring(data, upstream, push=True, clock=clock) as gate:
        await push_parts(gate.client, APP, app)
        await push_parts(gate.client, APP, other)

        async def gone(_: Asked, writer: asyncio.StreamWriter) -> None:
            upstream.answers[head] = status(503)
            writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")

        upstream.after[PUT.replace("1.4.2", "latest")] = gone
        await put(gate.client, APP, "latest", app)
        upstream.after.clear()
        waits = await put(gate.client, APP, "latest", other)
        clock.advance(seconds=HOUR_S)
        goes_on = await put(gate.client, APP, "latest", other)

    assert (waits.status_code, goes_on.status_code) == (503, 201)
    assert tags_upstream(upstream) == {"latest": other.digest}
    assert reserved(data) == []


@pytest.mark.slow
@pytest.mark.parametrize("by_digest", [False, True])
async def test_a_push_that_upstream_is_taking_keeps_its_blobs(
    data: Path, upstream: FakeUpstream, whole_store: None, *, by_digest: bool
) -> None:
    """Garbage collection runs while upstream takes a manifest whose blobs were hidden: the push is published whole."""
    clock, app, found = Clock(now_us()), image("app"), list[GarbageItem]()
    settings = settings_of(data)

    async def collect() -> None:
        found.extend(await asyncio.to_thread(lambda: list(collect_store(settings, dry_run=False, clock=clock))))

    async def collect_beside(_: Asked, writer: asyncio.StreamWriter) -> None:
        clock.advance(seconds=HOUR_S // 2)
        await collect()
        writer.write(b"HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n")

    reference = app.digest if by_digest else "latest"
    async with mirroring(data, upstream, push=True, clock=clock) as gate:
        await push_parts(gate.client, APP, app)
        clock.advance(days=1)
        await collect()
        hidden, found[:] = [item.what for item in found], []
        clock.advance(seconds=HOUR_S * 3 // 4)
        upstream.after[PUT.replace("1.4.2", reference)] = collect_beside
        answer = await put(gate.client, APP, reference, app)
        heads = {(await gate.client.head(f"/v2/{APP}/blobs/{blob.digest}")).status_code for blob in app.blobs}
        rows_left = rows(data, "SELECT digest FROM blob")

    assert hidden == [HIDDEN_BLOB] * 2
    assert found == []
    assert (answer.status_code, heads) == (201, {200})
    assert len(rows_left) == len(app.blobs)


async def test_a_sealed_image_that_upstream_lost_is_sent_again(gate: Serving, upstream: FakeUpstream) -> None:
    """A sealed image that upstream lost is sent again by the same push, with the same ledger entry."""
    app = image("app")
    first = await push(gate.client, APP, "1.4.2", app)
    del upstream.manifests["team/app"]["1.4.2"]
    again = await push(gate.client, APP, "1.4.2", app)

    assert again.headers["boltseal-ledger-index"] == first.headers["boltseal-ledger-index"]
    assert tags_upstream(upstream) == {"1.4.2": app.digest}


# --- concurrent pushes ---


async def test_of_racing_pushes_one_wins_and_every_201_is_true(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """Of twelve concurrent pushes of three images to one sealed tag, one digest wins, upstream as locally."""
    images = [image(f"{n}") for n in range(3)]
    settings = mirror_settings(data, table_of(upstream, push=True))
    async with serving_as(settings) as one, serving_as(settings) as two:
        for each in images:
            await push_parts(one.client, APP, each)

        async def attempt(number: int) -> tuple[str, int]:
            worker, each = (one, two)[number % 2], images[number % 3]
            return each.digest, (await put(worker.client, APP, "1.4.2", each)).status_code

        ended = await asyncio.gather(*(attempt(number) for number in range(12)))
        here = await meaning(two.client, APP, "1.4.2")
    winners = {digest for digest, code in ended if code == 201}

    assert winners == {here} == set(tags_upstream(upstream).values())
    assert {code for _, code in ended} == {201, 409}
    assert sum(code == 201 for _, code in ended) == 4
    assert upstream.counted[PUT] == 1
    assert len(entries(data)) == 1


async def test_racing_pushes_to_a_floating_tag_are_forwarded_in_one_order(
    gate: Serving, data: Path, upstream: FakeUpstream
) -> None:
    """Concurrent pushes to a mutable tag are forwarded in one order: the ledger's last entry is what upstream has."""
    images = [image(f"{n}") for n in range(4)]
    for each in images:
        await push_parts(gate.client, APP, each)
    answers = await asyncio.gather(*(put(gate.client, APP, "latest", each) for each in images))

    assert {answer.status_code for answer in answers} == {201}
    assert entries(data)[-1][2] == tags_upstream(upstream)["latest"] == await meaning(gate.client, APP, "latest")
    assert len(entries(data)) == 4


async def test_a_disconnected_client_does_not_end_its_push(gate: Serving, data: Path, upstream: FakeUpstream) -> None:
    """A push is completed after its client disconnected."""
    app = image("app")
    await push_parts(gate.client, APP, app)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(_: Asked, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await go_on.wait()
        writer.write(b"HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n")

    upstream.after[PUT] = slowly
    pushing = asyncio.create_task(put(gate.client, APP, "1.4.2", app))
    await arrived.wait()
    pushing.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
    go_on.set()
    await until(lambda: entries(data), "the ledger has an entry")

    assert [kind for kind, *_ in entries(data)] == ["tag.created"]
    assert reserved(data) == []


@pytest.mark.slow
async def test_resolving_undecided_pushes_leaves_the_reserved_pulls_alone(
    data: Path, upstream: FakeUpstream, whole_store: None
) -> None:
    """When only `reserve` pulls are left, no requests are sent to resolve undecided pushes."""
    app = image("app")
    async with mirroring(data, upstream, push=True, reserve=20) as gate:
        await push_parts(gate.client, APP, app)

        async def gone(_: Asked, writer: asyncio.StreamWriter) -> None:
            upstream.answers[HEAD] = status(503)
            writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")

        upstream.after[PUT] = gone
        await put(gate.client, APP, "1.4.2", app)
        upstream.answers["HEAD /v2/team/app/manifests/other"] = status(
            404, ratelimit_limit="100;w=21600", ratelimit_remaining="20;w=21600"
        )
        await gate.client.get(f"/v2/{APP}/manifests/other")
        push_gate = gate.app._push_proxy  # type: ignore[attr-defined]  # the application keeps it for itself
        asked = len(upstream.asked)
        await push_gate.settle_all()

    assert len(upstream.asked) == asked
    assert reserved(data) == [(APP, "1.4.2", app.digest)]
