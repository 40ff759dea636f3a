"""The ports that tests listen on are theirs alone."""

from __future__ import annotations

import subprocess
import sys

from tests.ports import RANGE, free_port

PROGRAM = "from tests.ports import free_port; print(*(free_port() for _ in range(200)), flush=True); input()"


def test_two_processes_get_no_port_twice() -> None:
    """Two running processes never get the same port, and the kernel assigns none of these ports."""
    command = [sys.executable, "-c", f"import os; os.getpid = lambda: 1; {PROGRAM}"]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    got = [int(port) for each in running if each.stdout for port in each.stdout.readline().split()]
    for each in running:
        each.communicate("\n")

    assert len(set(got)) == len(got) == 400
    assert max(got) < int(RANGE.read_text().split()[0])
    assert free_port() != free_port()
