"""Keeps a second server, or a command that needs the whole data folder, from the folder of a running server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.metadata.migrate import create_data

SERVER_LEASE: Final = "server"
OTHER_SERVER_ENDS_S: Final = 2.0
"""How long a server waits for one that is just ending, or whose workers are, after `kill -9`."""


@contextmanager
def only_server(data: Path, wait_s: float = OTHER_SERVER_ENDS_S) -> Iterator[None]:
    """Hold a data folder for one server inside the block; its worker processes share the lease. Creates the folder.

    Raises: FormatInvalid, LockUnusable, Unavailable; Invalid: another server has it after `wait_s` seconds.
    """
    create_data(data)
    leases = FileLeases(data)
    until_s = time.monotonic() + wait_s
    try:
        while leases.acquire(SERVER_LEASE) is None:
            if time.monotonic() >= until_s:
                raise Invalid(
                    f"another boltseal server uses the data folder {data}: end it first, or choose another folder with --data"
                )
            time.sleep(0.05)
        yield
    finally:
        leases.close()
