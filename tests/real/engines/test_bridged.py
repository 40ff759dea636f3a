"""The forwarding between an engine's network namespace and the registry."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.real.engines.bridged import FORWARD, running


def test_open_connections_end_with_the_forwarding(tmp_path: Path) -> None:
    """Bytes pass from a socket to a port, and a connection that is open at the end of the forwarding is closed with it."""
    at = str(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as target, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        with running(FORWARD, at, str(target.getsockname()[1])):
            client.connect(at)
            client.sendall(b"pulled")
            served, _ = target.accept()
            received = served.recv(6)
        with served:
            left = client.recv(6)

    assert (received, left) == (b"pulled", b"")
