"""Runs boltseal in a thread of this process, behind a real socket.

For tests about the clients: a server process takes more than a second of processor time to start and to end. Tests about
the server's processes, signals and HTTP parser use `tests.servers.boltseal`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boltseal.server.app import create_app
from boltseal.server.settings import Settings
from tests.asgi import running
from tests.fakes.listening import listening
from tests.servers import Server

START_TIMEOUT_S = 30.0


@contextmanager
def boltseal_in_thread(data: Path, config: str = "") -> Iterator[Server]:
    """Serve a data folder on a free port until the block is left; the log stays empty. `config`: text of a settings
    file."""
    log = data.with_name(f"{data.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    bound = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{bound.getsockname()[1]}"
    settings = Settings.model_validate({**tomllib.loads(config), "server": {"data": data, "listen": address}})
    ready, ending, failures = threading.Event(), asyncio.Event(), list[BaseException]()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        app = create_app(settings)
        async with running(app), listening(app, bound):
            ready.set()
            await ending.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(START_TIMEOUT_S)
        if not failures:
            yield Server("boltseal", address, os.getpid(), log, data)
    finally:
        if not failures:
            loop.call_soon_threadsafe(ending.set)
        thread.join()
        bound.close()
    for failure in failures:
        raise failure
