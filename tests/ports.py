"""Ports for servers whose address must be known before they start."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
COUNT = 12_000
KEPT = range(28_300, 28_400)
"""For `make serve-postgres` and `make serve-replicas`, whose ports are fixed, and which tests start beside others."""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens, and which no other test gets while this process runs.

    The kernel does not hand it out either, to connections and to sockets that bind to port 0: those ports begin above ours.
    """
    for port in _once():
        if _claim(port) and _is_free(port):
            return port
    raise AssertionError(f"all of {COUNT} ports are in use")


@cache
def _once() -> Iterator[int]:
    return candidates()


def candidates() -> Iterator[int]:
    """Yield each port once, from a place that differs between the processes of the tests."""
    end = int(RANGE.read_text().split()[0]) if RANGE.is_file() else 32_768
    begin = os.getpid() * 101 % COUNT
    ports = (end - COUNT + (begin + number) % COUNT for number in range(COUNT))
    return (port for port in ports if port not in KEPT)


def _claim(port: int) -> bool:
    """Lock the port's byte of a file that all processes of the tests share; the lock ends with this process."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _claims() -> int:
    """Open the file; closing it would release every lock."""
    return os.open(f"{tempfile.gettempdir()}/boltseal-test-ports-{os.geteuid()}", os.O_RDWR | os.O_CREAT, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
