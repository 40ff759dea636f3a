"""Connections that are opened and never used are closed after half a minute, and delay no other client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow

HEAD = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n"
MOST_PIECES = 60
"""A piece a second. The server waits for a head for thirty seconds (`server/supervisor.py`); twice that is never reached."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with the smallest number of connections that settings allow."""
    with boltseal(tmp_path / "data", settings={"BOLTSEAL_SERVER__MAX_CONNECTIONS": "16"}) as running:
        yield running


def pieces_until_closed(server: Server, first: bytes, piece: bytes) -> int:
    """Open a connection, send `first` and then one piece per second; return how many were sent before it was closed."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=1.0) as connection:
        connection.sendall(first)
        for number in range(MOST_PIECES):
            try:
                while connection.recv(65536):
                    pass
            except TimeoutError:
                pass
            except OSError:
                return number
            else:
                return number
            try:
                connection.sendall(piece)
            except OSError:
                return number
    return MOST_PIECES


def test_heads_that_never_end_are_cut_off(server: Server) -> None:
    """A connection without a complete request head is closed: silent, half a head, a byte a second, or after an answer."""
    methods = {
        "silent": (b"", b""),
        "half a head": (HEAD, b""),
        "a head that grows": (HEAD + b"X: ", b"y"),
        "headers without end": (HEAD, b"X: y\r\n"),
        "silent after an answer": (HEAD + b"\r\n", b""),
        "half a head after an answer": (HEAD + b"\r\nGET /v2", b"/"),
    }
    sent: dict[str, int] = {}

    def attack(way: str, first: bytes, piece: bytes) -> None:
        sent[way] = pieces_until_closed(server, first, piece)

    attackers = [threading.Thread(target=attack, args=(way, *how)) for way, how in methods.items()]
    for attacker in attackers:
        attacker.start()
    meanwhile = [httpx2.get(f"{server.url}/v2/", trust_env=False).status_code for _ in range(50)]
    for attacker in attackers:
        attacker.join()

    assert meanwhile == [200] * 50
    assert {way for way, pieces in sent.items() if pieces == MOST_PIECES} == set()
    assert sent.keys() == methods.keys()
