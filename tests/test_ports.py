"""The ports that tests listen on are theirs alone."""

from __future__ import annotations

import subprocess
import sys

from scripts import serve_postgres, serve_replicas
from scripts.storage_programs import PARTS
from tests.ports import COUNT, KEPT, RANGE, candidates, free_port

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


def test_no_test_gets_a_fixed_port_of_the_scripts() -> None:
    """A registry of `make serve-replicas` once did not start, since another test listened on its port."""
    scripts = (serve_postgres, serve_replicas)
    of_s3 = {
        each.S3_PORT + at + more
        for each in scripts
        for at in range(len(PARTS))
        for more in (0, serve_postgres.GRPC_PORTS)
    }
    of_replicas = {serve_replicas.FIRST_PORT + at for at in range(len(serve_replicas.NAMES))}
    fixed = of_s3 | of_replicas | {each.POSTGRES_PORT for each in scripts}
    for_tests = list(candidates())

    assert fixed <= set(KEPT)
    assert len(for_tests) == COUNT - len(KEPT)
    assert not set(for_tests) & fixed
