"""The order of tags on pages, and their version lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.policy.version_lines import NO_LINE, version_key


def test_newer_versions_stand_above_older_ones() -> None:
    """Numbers count by their value, a release is above its candidates, and tags without a version come last."""
    tags = ["1.4.9", "latest", "1.4.10", "1.4", "1.4.10-rc2", "1.4.10-rc10", "v2.0.0", "1", "20261130", "main", "1.3.7"]
    ordered = sorted(tags, key=version_key, reverse=True)

    assert ordered == [
        "v2.0.0", "1.4.10", "1.4.10-rc10", "1.4.10-rc2", "1.4.9", "1.4", "1.3.7", "1", "main", "latest", "20261130",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "line"),
    [
        ("1.4.2", "1.4"),
        ("v1.4.2-alpine", "1.4"),
        ("1.4", "1.4"),
        ("01.04", "1.4"),
        ("16", "16"),
        ("16-alpine", "16"),
        ("2026-11-30", "2026"),
        ("latest", NO_LINE),
        ("20261130", NO_LINE),
        ("1a2b3c4", NO_LINE),
        ("1.4.2beta", NO_LINE),
        ("9999999.1", NO_LINE),
        ("", NO_LINE),
    ],
)
def test_the_line_of_a_tag(tag: str, line: str) -> None:
    """The first two numbers of a version; a date or a hash has no line."""
    assert version_key(tag).line == line


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=40), unique=True))
def test_all_tags_have_a_place_and_lines_are_not_torn(tags: list[str]) -> None:
    """No two tags have the same key, any two can be compared, and the tags of a line stand together."""
    keys = sorted(map(version_key, tags))
    lines = [key.line for key in keys]
    changes = [line for before, line in zip([None, *lines], lines, strict=False) if line != before]

    assert len(set(keys)) == len(tags)
    assert len(changes) == len(set(lines))
