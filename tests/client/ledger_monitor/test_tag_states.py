"""The monitor's tables of tags: as exact as a dictionary, and much smaller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.client.ledger_monitor.tag_states import NOTHING, MonitoredTag, MonitoredTags

MAX_BYTES_PER_NAME = 150


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2**62)), max_size=600))
def test_the_last_state_is_found(puts: list[tuple[int, int]]) -> None:
    """The table returns the last state that was stored for a tag."""
    names, expected = MonitoredTags(b"s" * 16), dict[bytes, MonitoredTag]()
    for number, last in puts:
        name = names.hash(f"shop/app:{number}")
        expected[name] = MonitoredTag(last, names.hash(str(last)), NOTHING)
        names.put(name, *expected[name])

    assert len(names) == len(expected)
    assert all(names.find(name) == held for name, held in expected.items())
    assert names.find(names.hash("another")) is None


@pytest.mark.slow
def test_colliding_tags_do_not_hide_each_other() -> None:
    """Colliding tags get adjacent slots, also across the end of the table."""
    names = MonitoredTags(b"s" * 16)
    alike = [bytes([7]) + bytes(8) + number.to_bytes(7) for number in range(1, 2000)]
    for number, name in enumerate(alike):
        names.put(name, number, NOTHING, NOTHING)

    assert [names.find(name) for name in alike] == [MonitoredTag(number, NOTHING, NOTHING) for number in range(1999)]


def test_a_tag_takes_at_most_150_bytes() -> None:
    """Whatever its number of tags, the table takes at most 150 bytes per tag."""
    names, most = MonitoredTags(b"s" * 16), 0.0
    for number in range(60_000):
        names.put(names.hash(f"shop/app:{number}"), number, NOTHING, NOTHING)
        if number >= 20_000 and number % 500 == 0:
            most = max(most, names.size_bytes / len(names))

    assert 0 < most <= MAX_BYTES_PER_NAME


def test_another_secret_gives_other_hashes() -> None:
    """Without the table's secret, an attacker can't construct hash collisions."""
    assert MonitoredTags(b"s" * 16).hash("shop/app:1") != MonitoredTags(b"t" * 16).hash("shop/app:1")
    assert MonitoredTags(b"s" * 16).hash("") == NOTHING
