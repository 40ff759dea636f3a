"""The C library's allocator in a worker: what a piece of a blob used is there for the next one."""

from __future__ import annotations

import subprocess
import sys

ROUNDS = 500
PIECES = f"""
import resource, sys
from boltseal.cli.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else True
def piece():
    return bytes(bytearray(256 * 1024))
for _ in range(20):
    piece()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    piece()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[bool, int]:
    """Whether it could be set, and pages that the kernel had to give to ROUNDS pieces made one after the other."""
    told = subprocess.run(
        [sys.executable, "-c", PIECES, how], capture_output=True, text=True, check=True
    ).stdout.split()
    return told[0] == "True", int(told[1])


def test_pieces_made_one_after_the_other_need_no_new_pages() -> None:
    """Left alone, glibc asks the kernel for up to 128 pages each time."""
    kept, pages = faults("kept")

    assert kept
    assert pages < ROUNDS
