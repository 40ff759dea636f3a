"""CBOR of signatures: one meaning for all readers, or none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.strict_cbor import MAX_DEPTH, Tagged, parse_strict_cbor
from tests.signatures.notation_certificates import Tag, cbor

SCALARS = st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=300) | st.text() | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-9, 99) | st.text(), inner, max_size=4),
    max_leaves=6,
)


def parse(raw: bytes) -> Any:
    return parse_strict_cbor(raw, "the document", 1000)


@given(VALUES.filter(lambda value: len(cbor(value)) <= 1000))
def test_what_another_encoder_wrote_is_read(value: Any) -> None:
    """RFC 8949: every value has one shortest encoding."""
    assert parse(cbor(value)) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_read_in_one_way_or_refused(raw: bytes) -> None:
    """What is read has exactly these bytes as its encoding."""
    try:
        value = parse(raw)
    except SignatureInvalid:
        return

    assert cbor(_as_written(value)) == raw


def _as_written(value: Any) -> Any:
    if isinstance(value, Tagged):
        return Tag(value.number, _as_written(value.value))
    if isinstance(value, list):
        return [_as_written(each) for each in value]
    if isinstance(value, dict):
        return {key: _as_written(each) for key, each in value.items()}
    return value


def test_a_tag_stays_visible() -> None:
    """Tag 1 is a time only where the reader expects one."""
    assert parse(cbor(Tag(1, 7))) == Tagged(1, 7)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "ends too early"),
        (b"\x43ab", "ends too early"),
        (b"\x9a\xff\xff\xff\xff", "ends too early"),
        (b"\x18\x17", "shortest form"),
        (b"\x19\x00\xff", "shortest form"),
        (b"\x5f\x41a\xff", "no definite length"),
        (b"\x1c", "no definite length"),
        (b"\xa2\x01\x01\x01\x02", "a key twice"),
        (b"\xa1\xf5\x01", "neither an integer nor a text"),
        (b"\xa1\x40\x01", "neither an integer nor a text"),
        (b"\xf9\x3c\x00", "not expected"),
        (b"\xff", "not expected"),
        (b"\x61\xff", "utf-8"),
        (b"\x00\x00", "1 more bytes"),
        (b"\x81" * (MAX_DEPTH + 1) + b"\x00", "too deeply"),
        (b"\x00" * 1001, "at most 1000"),
    ],
)
def test_what_leaves_a_reader_a_choice_is_refused(raw: bytes, match: str) -> None:
    """Each rule, and bytes against it."""
    with pytest.raises(SignatureInvalid, match=match):
        parse(raw)
