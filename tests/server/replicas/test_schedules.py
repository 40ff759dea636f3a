"""A schedule of faults is decided by its seed alone, and leaves no fault out."""

from __future__ import annotations

from tests.server.replicas.faults import ALTERNATIVES, SERVER_FAULTS, SHARED_FAULTS, schedule

SEEDS = range(50)


def test_a_seed_decides_the_schedule() -> None:
    """A seed gives the same faults, servers and moments each time, and another one others."""
    assert [schedule(seed, whole=False) for seed in SEEDS] == [schedule(seed, whole=False) for seed in SEEDS]
    assert len({str([*map(str, schedule(seed, whole=False))]) for seed in SEEDS}) == len(SEEDS)


def test_a_whole_schedule_has_every_fault_once() -> None:
    """A whole round has every fault; a short one leaves out one of each pair of alternatives, not always the same one."""
    faults = {*SERVER_FAULTS, *SHARED_FAULTS}
    left_out = set()
    for seed in SEEDS:
        whole = [each.breaks for each in schedule(seed, whole=True)]
        short = [each.breaks for each in schedule(seed, whole=False)]
        left_out |= faults - {*short}

        assert len(whole) == len({*whole}) == len(faults)
        assert len(short) == len({*short}) == len(faults) - len(ALTERNATIVES)
        assert all(len({*pair} & {*short}) == 1 for pair in ALTERNATIVES)
    assert left_out == {each for pair in ALTERNATIVES for each in pair}
