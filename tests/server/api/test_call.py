"""Requests: bodies within limits, and a client that leaves or falls silent in the middle of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from starlette.types import Message, Receive

from boltseal.server.api.errors import BodyStalled, ClientGone
from boltseal.server.api.request import DEFAULT_LIMITS, Body, BodyLimits, DocumentTooLarge, LengthInvalid, Request
from tests.hasty import in_no_time

GONE: Message = {"type": "http.disconnect"}


def chunks(*parts: bytes, then: Message | None = None) -> Receive:
    """A server that hands over these chunks, the last of them as the end unless something else follows."""
    last = len(parts) - 1
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": then is not None or index < last}
        for index, part in enumerate(parts)
    ]
    return handing_over([*messages, GONE if then is None else then])


def handing_over(messages: Iterable[Message]) -> Receive:
    """A server that says these things, and then nothing any more."""
    left = iter(messages)

    async def receive() -> Message:
        for message in left:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def trickling(pause_s: float, piece: bytes = b"x", first: bytes | None = None) -> Receive:
    """A client that sends a piece after each pause, for ever."""
    pieces = iter([first or piece])

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": next(pieces, piece), "more_body": True}

    return receive


def call(receive: Receive, *headers: tuple[bytes, bytes], limits: BodyLimits = DEFAULT_LIMITS) -> Request:
    """A PUT with these headers."""
    scope = {"type": "http", "method": "PUT", "headers": list(headers), "query_string": b""}
    return Request(scope, receive, limits=limits)


async def test_a_body_comes_in_its_chunks() -> None:
    """Empty messages are not chunks."""
    got = [chunk async for chunk in Body(chunks(b"ab", b"", b"c", b""))]

    assert got == [b"ab", b"c"]


async def test_a_client_that_leaves_is_not_a_shorter_body() -> None:
    """Half a manifest must never look like a whole one."""
    body = Body(chunks(b"ab", then=GONE))
    with pytest.raises(ClientGone):
        await body.read(100)


@in_no_time
async def test_a_client_that_falls_silent_is_refused() -> None:
    """It would hold an upload's lock for as long as it likes."""
    with pytest.raises(BodyStalled, match="no byte of the body arrived for 60 seconds"):
        await Body(trickling(3600.0)).read(100)


@in_no_time
async def test_a_byte_a_minute_is_refused_after_two() -> None:
    """A byte now and then is never silence, and holds the session all the same."""
    body = Body(trickling(59.0))
    with pytest.raises(BodyStalled, match="less than 512 bytes per second"):
        await body.read(100_000)

    assert body.received_bytes == 1
    assert asyncio.get_running_loop().time() < 120


@in_no_time
async def test_a_slow_client_that_brings_enough_is_waited_for() -> None:
    """Not much faster than it has to be, for two hours."""
    body = Body(trickling(1.0, b"x" * 600))
    with pytest.raises(DocumentTooLarge):
        await body.read(7200 * 600)

    assert body.received_bytes == 7201 * 600


@in_no_time
async def test_the_time_that_we_keep_a_client_waiting_is_not_its_own() -> None:
    """Its bytes are there; that the disk is slow makes nobody a slow client."""
    body = Body(trickling(0.1, b"x" * 60))
    for _ in range(2000):
        await anext(body)
        await asyncio.sleep(0.89917)  # so that a minute after the begin of a wait is in the middle of one

    assert body.received_bytes == 2000 * 60


@in_no_time
async def test_a_client_that_was_fast_once_may_not_be_slow_for_ever() -> None:
    """A large first piece is not a stock to live on."""
    body = Body(trickling(1.0, first=b"x" * 1_000_000))
    with pytest.raises(BodyStalled, match="less than"):
        await body.read(2_000_000)

    assert asyncio.get_running_loop().time() == pytest.approx(120, abs=2)


@in_no_time
async def test_without_a_rate_only_silence_ends_a_body() -> None:
    """0 turns it off."""
    body = Body(trickling(59.0), BodyLimits(min_bytes_per_s=0))
    with pytest.raises(DocumentTooLarge):
        await body.read(1000)

    assert body.received_bytes == 1001


@in_no_time
async def test_a_body_that_was_cancelled_by_somebody_else_stays_cancelled() -> None:
    """A server that ends its tasks is not taken for a slow client."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await Body(trickling(59.0)).read(100)


async def test_a_document_as_long_as_it_says() -> None:
    """The whole body, however many chunks."""
    assert await call(chunks(b"ab", b"c"), (b"content-length", b"3")).read_body(3) == b"abc"


async def test_a_document_over_the_limit_is_refused_before_it_is_read() -> None:
    """Its Content-Length is enough."""
    with pytest.raises(DocumentTooLarge):
        await call(handing_over([]), (b"content-length", b"4")).read_body(3)


async def test_a_document_that_grows_over_the_limit() -> None:
    """Without a Content-Length it is refused at the first byte too many."""
    sent = call(chunks(*[b"ab"] * 100))
    with pytest.raises(DocumentTooLarge):
        await sent.read_body(3)

    assert sent.body.received_bytes == 4


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"3, 4", b"9" * 5000, b"\xb2"])
async def test_a_content_length_that_is_no_number(length: bytes) -> None:
    """Servers refuse most of these themselves; none of them is ours to believe."""
    with pytest.raises(LengthInvalid):
        await call(chunks(b"abc"), (b"content-length", length)).read_body(10)


async def test_a_document_that_is_not_as_long_as_it_says() -> None:
    """A shorter one is not taken for whole."""
    with pytest.raises(LengthInvalid):
        await call(chunks(b"ab"), (b"content-length", b"3")).read_body(10)


def test_a_header_said_twice_is_a_list() -> None:
    """Lines of one name are one value (RFC 9110, section 5.3)."""
    assert (
        call(chunks(b""), (b"if-match", b'"a"'), (b"x", b"y"), (b"if-match", b'"b"')).header(b"if-match") == '"a", "b"'
    )
    assert call(chunks(b"")).header(b"if-match") is None


async def test_the_rest_of_a_refused_body_is_taken() -> None:
    """So that the client's next write does not fail before it reads the answer."""
    refused = call(chunks(b"a", b"b", b"c"), (b"content-length", b"3"))
    await refused.drain_body()

    assert refused.body.finished
    assert refused.body.received_bytes == 3


async def test_only_so_much_of_it() -> None:
    """A client that would send for ever is cut off."""
    limits = BodyLimits(drain_bytes=10)
    refused = call(chunks(*[b"ab"] * 100), (b"transfer-encoding", b"chunked"), limits=limits)
    await refused.drain_body()

    assert refused.body.received_bytes == 10


@pytest.mark.parametrize("receive", [lambda: handing_over([]), lambda: chunks(b"a", then=GONE)])
@in_no_time
async def test_nobody_is_waited_for_after_the_answer(receive: Callable[[], Receive]) -> None:
    """A client that has left or dawdles has had its answer."""
    answered = call(receive(), (b"content-length", b"30"))
    await answered.drain_body()

    assert answered.body.finished
    assert asyncio.get_running_loop().time() <= DEFAULT_LIMITS.drain_s


@pytest.mark.parametrize(
    "headers", [[(b"expect", b"100-Continue"), (b"content-length", b"3")], [(b"content-length", b"0")], []]
)
async def test_a_body_that_will_not_come_is_not_asked_for(headers: list[tuple[bytes, bytes]]) -> None:
    """A client that waits for leave to send has got its refusal instead; and most requests have no body."""
    refused = call(handing_over([]), *headers)
    await refused.drain_body()

    assert refused.body.received_bytes == 0
