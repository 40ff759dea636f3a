"""Properties that boltseal needs of locked libraries, where a version once lacked them."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

PROCESSES: Final = 10
FIRST_USES: Final = 20
"""Of new types in each process. msgspec 0.22 ended 20 of 20 such processes by SIGSEGV, and 10 of 20 with 5 types."""

PARSE_TOGETHER: Final = """
import sys
import threading

import msgspec

THREADS = 8
RAW = b'{"items":[{"leaf":{"a":1,"b":"x"}}],"by":{"k":{"leaf":{"a":2}}},"more":null}'


def new_type():
    leaf = msgspec.defstruct("Leaf", [("a", int), ("b", str | None, None)])
    inner = msgspec.defstruct("Inner", [("leaf", leaf), ("leaves", list[leaf], []), ("tags", dict[str, str], {})])
    return msgspec.defstruct("Outer", [("items", list[inner]), ("by", dict[str, inner]), ("more", inner | None, None)])


def decode(kind, barrier, found):
    barrier.wait()
    found.append(msgspec.json.decode(RAW, type=kind))


sys.setswitchinterval(1e-6)  # threads change places within the first parse of a type
for _ in range(int(sys.argv[1])):
    kind, barrier, found = new_type(), threading.Barrier(THREADS), []
    threads = [threading.Thread(target=decode, args=(kind, barrier, found)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if [(each.items[0].leaf.b, each.by["k"].leaf.a) for each in found] != [("x", 2)] * THREADS:
        sys.exit("a thread decoded something else")
"""


@pytest.mark.slow
def test_threads_may_decode_a_type_for_the_first_time_together() -> None:
    """Eight threads that decode a new Struct type at once all get its values, and the process does not crash."""
    ended = [
        subprocess.run(
            [sys.executable, "-c", PARSE_TOGETHER, str(FIRST_USES)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for _ in range(PROCESSES)
    ]

    assert [each.returncode for each in ended].count(-signal.SIGSEGV) == 0
    assert [(each.returncode, each.stderr) for each in ended] == [(0, "")] * PROCESSES
