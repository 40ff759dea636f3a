"""Ranges of blobs, and Content-Range of upload chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import RangeInvalid
from boltseal.server.api.errors import RangeNotSatisfiable
from boltseal.server.api.ranges import ByteRange, Chunk, parse_content_range, parse_range, upload_range

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-499", 0, 500),
        ("bytes=500-", 500, 500),
        ("bytes=-500", 500, 500),
        ("bytes=-5000", 0, 1000),
        ("bytes=990-5000", 990, 10),
        ("bytes=999-999", 999, 1),
        ("Bytes = 1-2", 1, 2),
        ("bytes=0-99999999999999999999999999", 0, 1000),
        ("bytes=-99999999999999999999999999", 0, 1000),
    ],
)
def test_a_range_is_served_as_asked_and_clamped(header: str, start: int, length: int) -> None:
    """A range with first and last byte, open, as a suffix, or beyond the end is served and clamped."""
    assert parse_range(header, SIZE) == ByteRange(start, length)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,3-4",
        "bytes=0-1, 5-",
        "items=0-1",
        "0-1",
        "bytes",
        "bytes=",
        "",
        "bytes=-",
        "bytes=a-b",
        "bytes=--1",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=¹-2",
    ],
)
def test_several_ranges_another_unit_or_garbage_return_the_whole_blob(header: str) -> None:
    """For several ranges, another unit or garbage the whole blob is sent, as RFC 9110 allows."""
    assert parse_range(header, SIZE) is None


@pytest.mark.parametrize(
    "header", ["bytes=500-0", "bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=" + "9" * 5000 + "-"]
)
def test_an_unsatisfiable_range_is_refused(header: str) -> None:
    """An unsatisfiable range gets 416 with the blob's size."""
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, SIZE)

    assert caught.value.size == SIZE


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_an_empty_blob_has_no_range(header: str) -> None:
    """An empty blob has no satisfiable range."""
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 0)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_a_served_range_equals_pythons_slice(start: int, end: int, size: int) -> None:
    """A served range equals the Python slice of the blob."""
    content = bytes(range(size))
    try:
        got = parse_range(f"bytes={start}-{end}", size)
    except RangeNotSatisfiable:
        assert content[start : end + 1] == b""
        return

    assert got is not None
    assert content[got.start : got.start + got.length] == content[start : end + 1]


@given(st.text(max_size=40), st.integers(0, 10))
def test_any_text_is_a_range_the_whole_or_refused(header: str, size: int) -> None:
    """Any Range header gives a range inside of the blob, None, or an error."""
    try:
        got = parse_range("bytes=" + header, size)
    except RangeNotSatisfiable:
        return

    assert got is None or (got.start >= 0 and got.length >= 1 and got.start + got.length <= size)


def test_content_range_of_an_answer() -> None:
    """Content-Range has first byte, last byte and size, as RFC 9110 section 14.4 writes them."""
    assert ByteRange(10, 5).content_range(100) == "bytes 10-14/100"


def test_the_range_of_a_chunk_is_parsed() -> None:
    """A chunk's Content-Range is `<start>-<end>`, inclusive and without a unit."""
    assert parse_content_range("0-0", None) == Chunk(0, 1)
    assert parse_content_range("10-19", 10) == Chunk(10, 10)
    assert parse_content_range(None, 10) is None


@pytest.mark.parametrize(
    "header",
    ["bytes=0-9", "bytes 0-9/10", "0-9/10", "0", "-", "5-", "-5", "9-0", "a-b", " 0-9", "0 - 9", "0-9,10-19", ""],
)
def test_a_chunk_in_any_other_form_is_refused(header: str) -> None:
    """A chunk's Content-Range in any other form is refused, because a misread one would corrupt the blob."""
    with pytest.raises(RangeInvalid):
        parse_content_range(header, None)


@pytest.mark.parametrize("length", [0, 9, 11])
def test_a_chunk_has_the_stated_length(length: int) -> None:
    """A chunk whose Content-Range and Content-Length differ is refused before a byte is read."""
    with pytest.raises(RangeInvalid, match="Content-Length"):
        parse_content_range("0-9", length)


@pytest.mark.parametrize(("size", "shown"), [(0, "0-0"), (1, "0-0"), (10, "0-9")])
def test_the_range_of_a_session(size: int, shown: str) -> None:
    """A session's Range ends with its last byte, inclusive; an empty session has 0-0."""
    assert upload_range(size) == shown
