"""Request bodies: limits, and clients that disconnect or stop sending in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from starlette.types import Message, Receive

from boltseal.server.api.errors import BodyStalled, ClientGone
from boltseal.server.api.request import DEFAULT_LIMITS, Body, BodyLimits, DocumentTooLarge, LengthInvalid, Request
from tests.virtual_time import in_virtual_time

GONE: Message = {"type": "http.disconnect"}


def chunks(*parts: bytes, then: Message | None = None) -> Receive:
    """Return a `receive` that yields these chunks; the last one ends the body unless `then` follows."""
    last = len(parts) - 1
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": then is not None or index < last}
        for index, part in enumerate(parts)
    ]
    return handing_over([*messages, GONE if then is None else then])


def handing_over(messages: Iterable[Message]) -> Receive:
    """Return a `receive` that yields these messages and then waits for ever."""
    left = iter(messages)

    async def receive() -> Message:
        for message in left:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def trickling(pause_s: float, piece: bytes = b"x", first: bytes | None = None) -> Receive:
    """Return a `receive` that yields one piece after each pause, without an end."""
    pieces = iter([first or piece])

    async def receive() -> Message:
        await asyncio.sleep(pause_s)  # the pace of the client
        return {"type": "http.request", "body": next(pieces, piece), "more_body": True}

    return receive


def call(receive: Receive, *headers: tuple[bytes, bytes], limits: BodyLimits = DEFAULT_LIMITS) -> Request:
    """Return a PUT request with these headers."""
    scope = {"type": "http", "method": "PUT", "headers": list(headers), "query_string": b""}
    return Request(scope, receive, limits=limits)


async def test_a_body_is_returned_in_its_chunks() -> None:
    """A request body is returned in its chunks without empty messages."""
    got = [chunk async for chunk in Body(chunks(b"ab", b"", b"c", b""))]

    assert got == [b"ab", b"c"]


async def test_a_disconnect_is_not_a_shorter_body() -> None:
    """A body whose client disconnects raises an error, and is never a shorter body."""
    body = Body(chunks(b"ab", then=GONE))
    with pytest.raises(ClientGone):
        await body.read(100)


@in_virtual_time
async def test_a_client_that_stops_sending_is_refused() -> None:
    """A client that stops sending is refused after the idle timeout, because it would keep the upload's lock."""
    with pytest.raises(BodyStalled, match="no byte of the body arrived for 60 seconds"):
        await Body(trickling(3600.0)).read(100)


@in_virtual_time
async def test_a_byte_a_minute_is_refused_by_the_minimum_rate() -> None:
    """Single bytes reset the idle timeout, so a body of one byte a minute is refused by the minimum rate."""
    body = Body(trickling(59.0))
    with pytest.raises(BodyStalled, match="less than 512 bytes per second"):
        await body.read(100_000)

    assert body.received_bytes == 1
    assert asyncio.get_running_loop().time() < 120


@in_virtual_time
async def test_a_client_just_above_the_minimum_rate_is_not_refused() -> None:
    """A client slightly above the minimum rate is served for two hours."""
    body = Body(trickling(1.0, b"x" * 600))
    with pytest.raises(DocumentTooLarge):
        await body.read(7200 * 600)

    assert body.received_bytes == 7201 * 600


@in_virtual_time
async def test_only_time_spent_waiting_for_the_client_counts() -> None:
    """Only waiting for the client counts for the minimum rate, not a slow disk."""
    body = Body(trickling(0.1, b"x" * 60))
    for _ in range(2000):
        await anext(body)
        await asyncio.sleep(0.89917)  # so that a minute after the start is within a wait

    assert body.received_bytes == 2000 * 60


@in_virtual_time
async def test_a_fast_start_does_not_allow_a_slow_rest() -> None:
    """The minimum rate is measured per interval, so that a fast start does not allow a slow rest."""
    body = Body(trickling(1.0, first=b"x" * 1_000_000))
    with pytest.raises(BodyStalled, match="less than"):
        await body.read(2_000_000)

    assert asyncio.get_running_loop().time() == pytest.approx(120, abs=2)


@in_virtual_time
async def test_without_a_minimum_rate_only_the_idle_timeout_applies() -> None:
    """With a minimum rate of 0, only the idle timeout applies."""
    body = Body(trickling(59.0), BodyLimits(min_bytes_per_s=0))
    with pytest.raises(DocumentTooLarge):
        await body.read(1000)

    assert body.received_bytes == 1001


@in_virtual_time
async def test_a_cancellation_from_outside_is_not_converted() -> None:
    """A request cancelled by the server is not reported as a slow client."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await Body(trickling(59.0)).read(100)


async def test_a_document_is_joined_from_its_chunks() -> None:
    """A document is joined from any number of chunks of its Content-Length."""
    assert await call(chunks(b"ab", b"c"), (b"content-length", b"3")).read_body(3) == b"abc"


async def test_a_document_over_the_limit_is_refused_before_it_is_read() -> None:
    """A Content-Length over the limit is refused before the body is read."""
    with pytest.raises(DocumentTooLarge):
        await call(handing_over([]), (b"content-length", b"4")).read_body(3)


async def test_a_document_that_grows_over_the_limit_is_refused() -> None:
    """A document without a Content-Length is refused at the first byte over the limit."""
    sent = call(chunks(*[b"ab"] * 100))
    with pytest.raises(DocumentTooLarge):
        await sent.read_body(3)

    assert sent.body.received_bytes == 4


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"3, 4", b"9" * 5000, b"\xb2"])
async def test_a_content_length_that_is_no_number_is_refused(length: bytes) -> None:
    """A Content-Length that is no number is refused by the application, although most servers do so too."""
    with pytest.raises(LengthInvalid):
        await call(chunks(b"abc"), (b"content-length", length)).read_body(10)


async def test_a_document_of_another_length_is_refused() -> None:
    """A document shorter than its Content-Length is refused."""
    with pytest.raises(LengthInvalid):
        await call(chunks(b"ab"), (b"content-length", b"3")).read_body(10)


def test_a_repeated_header_is_a_list() -> None:
    """Header lines of one name are one value (RFC 9110, section 5.3)."""
    assert (
        call(chunks(b""), (b"if-match", b'"a"'), (b"x", b"y"), (b"if-match", b'"b"')).header(b"if-match") == '"a", "b"'
    )
    assert call(chunks(b"")).header(b"if-match") is None


async def test_the_rest_of_a_refused_body_is_drained() -> None:
    """The rest of a refused body is read, since the client's next write would otherwise fail before it reads the
    answer."""
    refused = call(chunks(b"a", b"b", b"c"), (b"content-length", b"3"))
    await refused.drain_body()

    assert refused.body.finished
    assert refused.body.received_bytes == 3


async def test_draining_is_limited_in_size() -> None:
    """A client that sends endlessly after a refusal is disconnected."""
    limits = BodyLimits(drain_bytes=10)
    refused = call(chunks(*[b"ab"] * 100), (b"transfer-encoding", b"chunked"), limits=limits)
    await refused.drain_body()

    assert refused.body.received_bytes == 10


@pytest.mark.parametrize("receive", [lambda: handing_over([]), lambda: chunks(b"a", then=GONE)])
@in_virtual_time
async def test_draining_does_not_wait_for_slow_or_absent_clients(receive: Callable[[], Receive]) -> None:
    """After a refusal, slow or absent clients are not waited for."""
    answered = call(receive(), (b"content-length", b"30"))
    await answered.drain_body()

    assert answered.body.finished
    assert asyncio.get_running_loop().time() <= DEFAULT_LIMITS.drain_s


@pytest.mark.parametrize(
    "headers", [[(b"expect", b"100-Continue"), (b"content-length", b"3")], [(b"content-length", b"0")], []]
)
async def test_a_body_that_is_not_sent_is_not_drained(headers: list[tuple[bytes, bytes]]) -> None:
    """After a refusal with `Expect: 100-continue`, or without a body, nothing is drained."""
    refused = call(handing_over([]), *headers)
    await refused.drain_body()

    assert refused.body.received_bytes == 0
