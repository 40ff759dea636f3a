"""Conditional requests: lenient on reads, strict on writes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.server.api.conditional_requests import ConditionInvalid, not_modified, range_applies, write_conditions
from boltseal.server.registry.models import UNCONDITIONAL, Conditions

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


@pytest.mark.parametrize(
    "header",
    [
        f'"{DIGEST}"',
        DIGEST,
        f'W/"{DIGEST}"',
        "*",
        f'"{OTHER}", "{DIGEST}"',
        f'"x",W/"{DIGEST}"',
        f' "{DIGEST}" ',
        f"{OTHER},{DIGEST}",
    ],
)
def test_a_matching_if_none_match_is_recognised(header: str) -> None:
    """If-None-Match matches quoted, unquoted, weak, in a list, or as `*`."""
    assert not_modified(header, DIGEST)


@pytest.mark.parametrize(
    "header", ["", '""', f'"{OTHER}"', DIGEST[:-1], f'"{DIGEST}', '"*"', "garbage garbage", f'"{DIGEST}x"', ","]
)
def test_an_if_none_match_that_does_not_match_is_ignored(header: str) -> None:
    """An invalid If-None-Match is ignored, and the content is sent."""
    assert not not_modified(header, DIGEST)


def test_if_range_names_exactly_this_content() -> None:
    """If-Range allows a range only with the strong ETag; anything else gets the whole blob."""
    assert range_applies(None, DIGEST)
    assert range_applies(f'"{DIGEST}"', DIGEST)
    assert not range_applies(f'W/"{DIGEST}"', DIGEST)
    assert not range_applies(f'"{OTHER}"', DIGEST)
    assert not range_applies("Tue, 24 Nov 2026 08:00:00 GMT", DIGEST)


def test_a_write_without_a_header_has_no_condition() -> None:
    """A write without a condition header has no condition."""
    assert write_conditions(None, None) is UNCONDITIONAL


def test_if_none_match_any_on_a_write() -> None:
    """`If-None-Match: *` on a PUT means that the tag must not exist."""
    assert write_conditions("*", None) == Conditions(if_none_match_any=True)


def test_if_match_on_a_write() -> None:
    """If-Match on a write is parsed with one digest, several, or `*`."""
    assert write_conditions(None, f'"{DIGEST}"') == Conditions(if_match=frozenset({DIGEST}))
    assert write_conditions(None, DIGEST) == Conditions(if_match=frozenset({DIGEST}))
    assert write_conditions(None, f'"{DIGEST}", "{OTHER}"') == Conditions(if_match=frozenset({DIGEST, OTHER}))
    assert write_conditions(None, "*") == Conditions(if_match=frozenset({"*"}))


def test_a_weak_tag_matches_no_write() -> None:
    """If-Match compares strongly (RFC 9110, section 13.1.1), so that a weak ETag matches nothing."""
    assert write_conditions(None, f'W/"{DIGEST}"') == Conditions(if_match=frozenset())


@pytest.mark.parametrize("header", ["", f'"{DIGEST}"', '"*"', "* , *", "W/*"])
def test_another_if_none_match_on_a_write_is_refused(header: str) -> None:
    """If-None-Match on a write with anything but `*` is refused, since it must not count as fulfilled."""
    with pytest.raises(ConditionInvalid):
        write_conditions(header, None)


@pytest.mark.parametrize(
    "header", ["", f'"{DIGEST}', f'{DIGEST}"', "a b", f'"{DIGEST}" "{OTHER}"', ",", f'"{DIGEST}", *']
)
def test_a_malformed_if_match_is_refused(header: str) -> None:
    """An If-Match list with one invalid member is refused."""
    with pytest.raises(ConditionInvalid):
        write_conditions(None, header)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_refused(header: str) -> None:
    """Every header value is either parsed or refused with ConditionInvalid."""
    not_modified(header, DIGEST)
    conditions = None
    with contextlib.suppress(ConditionInvalid):
        conditions = write_conditions(None, header)

    assert conditions is None or conditions.if_match is not None
