"""The store's number, as several processes move it: an even one must never stand while somebody commits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.server.storage.coordination.generation import FileGeneration


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "generation"


def telling(work: Callable[[], None], done: threading.Event) -> Callable[[], None]:
    """Does the work, then says that it is done."""

    def run() -> None:
        work()
        done.set()

    return run


def test_the_end_of_one_writer_is_not_the_end_of_the_next(place: Path) -> None:
    """COMMIT opens the database's lock before `end`: the next writer must wait, or its COMMIT comes under an even number."""
    one, other = FileGeneration.open(place), FileGeneration.open(place)
    one.begin()
    begun = threading.Event()
    next_writer = threading.Thread(target=telling(other.begin, begun))
    next_writer.start()
    overtook = begun.wait(0.2)
    one.end()
    next_writer.join(5)
    during_the_next = one.read()
    other.end()

    assert not overtook
    assert during_the_next % 2 == 1
    assert one.read() % 2 == 0


def test_the_number_is_another_after_each_writer(place: Path) -> None:
    """Two writers, each in its own process, never leave a number that stood before."""
    one, other = FileGeneration.open(place), FileGeneration.open(place)
    seen = [one.read()]
    for writer in (one, other, one):
        writer.begin()
        writer.end()
        seen.append(one.read())

    assert seen == sorted(set(seen))
    assert all(number % 2 == 0 for number in seen)


def test_a_writer_that_died_stops_nobody(place: Path) -> None:
    """A process killed between begin and end leaves the number odd, and its lock open."""
    here = FileGeneration.open(place)
    child = os.fork()
    if child == 0:
        FileGeneration.open(place).begin()
        os._exit(0)
    os.waitpid(child, 0)
    left = here.read()
    here.repair()
    repaired = here.read()
    here.begin()
    here.end()

    assert left % 2 == 1
    assert repaired == left + 1
    assert here.read() == repaired + 2


def test_a_start_does_not_end_what_a_living_writer_began(place: Path) -> None:
    """`repair` beside a writer between COMMIT and `end` waits, and then finds nothing to repair."""
    one, starting = FileGeneration.open(place), FileGeneration.open(place)
    one.begin()
    repaired = threading.Event()
    start = threading.Thread(target=telling(starting.repair, repaired))
    start.start()
    overtook = repaired.wait(0.2)
    one.end()
    after = one.read()
    start.join(5)

    assert not overtook
    assert one.read() == after
