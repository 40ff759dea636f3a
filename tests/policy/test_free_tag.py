"""The free tag that a refusal suggests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.reference import Tag
from boltseal.policy.free_tag import next_free

tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)


def nothing(_: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("1.4.2", "1.4.3"),
        ("1.4.9", "1.4.10"),
        ("1.4", "1.5"),
        ("1", "2"),
        ("v2", "v3"),
        ("V2.0", "V2.1"),
        ("1.4.2-alpine", "1.4.3-alpine"),
        ("1.4.2-alpine3.20", "1.4.3-alpine3.20"),
        ("1.4.2_3", "1.4.3_3"),
        ("1.4.2.Final", "1.4.3.Final"),
        ("1.4.2-rc.1", "1.4.3-rc.1"),
        ("release-1.4.2", "release-1.4.3"),
        ("build-007", "build-008"),
        ("build-999", "build-1000"),
        ("app-server-v1.2", "app-server-v1.3"),
        ("20261124", "20261125"),
    ],
)
def test_the_last_number_before_the_suffix_is_increased(tag: str, expected: str) -> None:
    """The suggested tag has the last number before the suffix increased by one."""

    assert next_free(tag, nothing) == expected


@pytest.mark.parametrize(
    "tag",
    [
        "latest",
        "stable-",
        "_",
        "2026-11-24",
        "app-2026-11-24",
        "1.4.2-2026-11-24",
        "sha-ab12cd3",
        "ab12cd3",
        "1a2b",
        "9" * 128,
    ],
)
def test_no_tag_is_suggested_where_counting_makes_no_sense(tag: str) -> None:
    """No tag is suggested for names, dates and hashes, or beyond 128 characters."""

    assert next_free(tag, nothing) is None


def test_a_taken_or_tombstoned_tag_is_not_suggested() -> None:
    """Only the very next tag is suggested, if it is free: later gaps may be intentional."""

    assert next_free("1.4.2", {"1.4.3"}.__contains__) is None


@given(tags)
def test_the_suggested_tag_is_valid_and_another_one(tag: str) -> None:
    """Every suggested tag is valid and differs from the refused one."""
    free = next_free(tag, nothing)

    if free is not None:
        assert Tag(free) != tag


def test_a_long_tag_without_a_number_is_matched_in_linear_time() -> None:
    """Matching a long tag without a number takes linear time."""

    assert next_free("a" * 127 + ".", nothing) is None
