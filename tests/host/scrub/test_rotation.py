"""Which parts of a host a run with `--share` reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import Invalid
from boltseal.host.scrub.rotation import PartRecord, Rotation, RotationState, parse_share


def run(state: RotationState, sizes: dict[str, int], shares: int, *failing: str) -> tuple[RotationState, set[str]]:
    """Return the state after a run and the parts that it read. `failing`: parts that differ where they are read."""
    rotation = Rotation(shares, state, 1_700_000_000 + state.run)
    rotation.begin(sizes)
    read = {key for key in sizes if rotation.reads(key)}
    for key in read.intersection(failing):
        rotation.fail(key)
    return rotation.end(), read


HOSTS = st.lists(
    st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(0, 1000), max_size=12), min_size=1, max_size=30
)


@given(HOSTS, st.integers(1, 9))
def test_each_part_is_read_in_one_of_n_consecutive_runs(hosts: list[dict[str, int]], shares: int) -> None:
    """A part that stays for N runs is read in at least one of them, however parts come, go, and change their sizes."""
    state, runs = RotationState(), []
    for sizes in hosts:
        state, read = run(state, sizes, shares)
        runs.append((set(sizes), read))

    for first in range(len(runs) - shares + 1):
        window = runs[first : first + shares]
        stayed = set.intersection(*(there for there, _ in window))
        assert stayed <= set().union(*(read for _, read in window))


@given(st.dictionaries(st.text(), st.integers(1, 10_000), min_size=1, max_size=40), st.integers(1, 9))
def test_a_run_reads_the_share_and_at_most_one_part_more(sizes: dict[str, int], shares: int) -> None:
    """From the first run on, a run of an unchanged host reads its share of the bytes, and at most one part more."""
    state = RotationState()
    for _ in range(shares):
        state, read = run(state, sizes, shares)
        got, share = sum(sizes[key] for key in read), -(-sum(sizes.values()) // shares)
        unread = {key for key, each in state.parts.items() if each.read_s == 0}

        assert got >= min(share, sum(sizes.values()))
        assert got < share + max(sizes.values())
    assert unread == set()


@given(st.dictionaries(st.text(), st.integers(0, 1000), max_size=20), st.integers(1, 9))
def test_the_choice_is_deterministic(sizes: dict[str, int], shares: int) -> None:
    """The choice does not depend on the order in which a store lists its parts."""
    state, _ = run(RotationState(), sizes, shares)
    turned = dict(reversed(list(sizes.items())))

    assert run(state, sizes, shares) == run(state, turned, shares)


def test_a_part_that_failed_is_read_again_in_every_run_until_it_succeeds() -> None:
    """A difference is reported by each run until it is repaired, not only when its turn comes."""
    sizes = dict.fromkeys("abcd", 10)
    state, first = run(RotationState(), sizes, 4, "a")
    state, second = run(state, sizes, 4, "a")
    state, repaired = run(state, sizes, 4)
    state, after = run(state, sizes, 4)

    assert first == {"a"}
    assert "a" in second
    assert "a" in repaired
    assert "a" not in after


def test_new_parts_come_first() -> None:
    """What was never read, such as an image that was pulled since, is read before what was read already."""
    state, _ = run(RotationState(), {"a": 10, "b": 10}, 1)
    _, read = run(state, {"a": 10, "b": 10, "z": 10}, 3)

    assert read == {"z"}


def test_a_part_that_returns_counts_as_new() -> None:
    """The state forgets what is gone, so that an image that is pulled again counts as never read."""
    state, _ = run(RotationState(), {"a": 1, "b": 1}, 1)
    state, _ = run(state, {"a": 1}, 9)
    state, _ = run(state, {"a": 1, "b": 1}, 9)

    assert set(state.parts) == {"a", "b"}
    assert state.parts["b"].read_s == 1_700_000_002


def test_the_summary_says_what_was_not_read() -> None:
    """The summary has the parts and bytes that were not read, and the time of the oldest reading."""
    state = RotationState(9, {"a": PartRecord(8, 800), "b": PartRecord(9, 900)})
    rotation = Rotation(3, state, 1000)
    rotation.begin({"a": 5, "b": 20, "c": 5})

    summary = rotation.summary()
    assert (summary.parts, summary.read, summary.unread) == (3, 2, 1)
    assert (summary.bytes, summary.unread_bytes) == (10, 20)
    assert (summary.never, summary.oldest_s) == (0, 900)


def test_a_part_that_was_never_read_waits_since_it_appeared() -> None:
    """What appeared a moment ago is not late; what appeared long ago and was not read yet is."""
    state = RotationState(9, {"a": PartRecord(9, 900), "b": PartRecord(9, 0, failed=False, seen_s=700)})
    rotation = Rotation(9, state, 1000)
    rotation.begin({"a": 1000, "b": 1000, "c": 1})
    after = rotation.end().parts

    assert rotation.summary().never == 1
    assert {key: each.waits_since_s for key, each in after.items()} in (
        {"a": 900, "b": 1000, "c": 1000},
        {"a": 900, "b": 700, "c": 1000},
    )


@pytest.mark.parametrize("text", ["", "7", "1/", "1/0", "2/7", "1/x", "1/-7", "1/1001", "1/7 ", f"1/{'9' * 5000}"])
def test_an_invalid_share_is_refused(text: str) -> None:
    """A share that is not 1/N is refused with an example."""
    with pytest.raises(Invalid, match="such as 1/7"):
        parse_share(text)


def test_a_share_is_parsed() -> None:
    """The share 1/7 is seven runs for everything."""
    assert (parse_share("1/7"), parse_share("1/1"), parse_share("1/1000")) == (7, 1, 1000)
