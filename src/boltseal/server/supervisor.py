"""Runs granian: one process that listens and watches, and workers that answer.

    boltseal serve ── watches, restarts a worker that died
      └─ workers    ── an event loop each, the application built by `app.create_app`

Rules kept here:

- A worker gets its settings from its parent, as values. Only at SIGHUP it reads the configuration again, and takes
  the rules over; a configuration that can't be used changes nothing. Workers are replaced only when the files of the
  certificate have changed, and can be used: each old one when a new one listens, with `shutdown_timeout_s` to finish.
- granian shares its port with whoever asks for it (SO_REUSEPORT), so that a second server would silently take half of
  the requests: whether the port is free is asked first, in a way that can't be shared.
- Workers die with their parent, also when that is killed, so that no orphan goes on serving.
- The end is bounded: requests under way get `shutdown_timeout_s`; what was acknowledged is on the disk either way.

What the server's behaviour asks of the application is written down in docs/adr/0007-what-granian-asks-of-us.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.server import logs
from boltseal.server.settings import ListenAddress, Settings
from boltseal.server.storage.certificate import check_certificate
from boltseal.server.storage.metrics import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp

READ_BUFFER_BYTES: Final = 256 * 1024
HEADER_TIMEOUT_MS: Final = 30_000
CONNECT_EVERY_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1


class PortTaken(Invalid):
    """Somebody listens there already, or this machine has no such address."""


class WorkerFailed(Unavailable):
    """A worker ended by itself, again and again."""


def refuse_taken_port(address: ListenAddress) -> None:
    """Raise PortTaken unless the address is this machine's and nobody listens there."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise PortTaken(
                f"can't listen on {address}: {(error.strerror or str(error)).lower()}; "
                "choose another address with --listen HOST:PORT"
            ) from error


class _Server(MPServer):
    """granian, but SIGHUP makes the workers read their rules again instead of replacing them, which cuts transfers off."""

    on_hangup: Callable[[], bool]
    """Reads everything again; True where workers must be replaced for it."""

    def signal_handler_reload(self, *_: object, **__: object) -> None:
        """SIGHUP came."""
        if self.on_hangup():
            super().signal_handler_reload()  # type: ignore[no-untyped-call]  # granian's has no annotations
            return
        for worker in self.wrks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.inner.pid, signal.SIGHUP)


def serve(settings: Settings, reload: Callable[[], Settings], *, as_json: bool, listening: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        reload: reads the configuration again; called at SIGHUP, here and in every worker.
        as_json: how the log is written.
        listening: called once, when connections are taken.

    Raises:
        WorkerFailed: no worker could be kept alive; the log says why.
    """
    server = settings.server
    granian = _Server(
        "boltseal",
        address=server.address.host,
        port=server.address.port,
        interface=Interfaces.ASGI,
        workers=server.workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        backlog=server.max_connections,
        backpressure=server.max_connections,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=READ_BUFFER_BYTES),
        ssl_cert=server.tls_cert,
        ssl_key=server.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.debug if server.log_level == "debug" else LogLevels.warning,
        log_dictconfig=logs.dict_config(server.log_level, as_json=as_json),
        respawn_failed_workers=True,
        workers_kill_timeout=server.shutdown_timeout_s,
    )
    parent = os.getpid()
    in_force = settings
    run = RunFolder.make(server.data)
    served = check_certificate(server.tls_cert, server.tls_key)

    def hangup() -> bool:
        nonlocal in_force, served
        with contextlib.suppress(BoltsealError):  # the workers say what is wrong with it
            in_force = in_force.taking_over(reload())
        found = served
        with contextlib.suppress(BoltsealError):
            found = check_certificate(server.tls_cert, server.tls_key)
        changed, served = found != served, found
        return changed

    def worker() -> ASGIApp:
        return _worker(in_force, reload, parent, run, as_json=as_json)

    granian.on_hangup = hangup
    granian.on_startup(lambda: _when_listening(server.address, listening))
    try:
        granian.serve(target_loader=worker, wrap_loader=False)
    except SystemExit as stopped:
        if stopped.code:
            raise WorkerFailed(
                "the server stopped because its workers ended by themselves; its log says why"
            ) from stopped


def _when_listening(address: ListenAddress, call: Callable[[], None]) -> None:
    """Call once somebody takes connections, from a thread: granian has no such hook, and its own comes too early."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - asked, not bound

    def watch() -> None:
        while True:
            time.sleep(CONNECT_EVERY_S)
            with contextlib.suppress(OSError), socket.create_connection((host, address.port), timeout=1.0):
                call()
                return

    threading.Thread(target=watch, name="boltseal-greets", daemon=True).start()


def _worker(settings: Settings, reload: Callable[[], Settings], parent: int, run: Path, *, as_json: bool) -> ASGIApp:
    """First thing that a worker runs: ties it to its parent, then builds the application."""
    _die_with(parent)
    # The parent's handlers came along with the fork and would swallow an end that is asked for during the start.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until the application takes it
    # A terminal's Ctrl-C goes to every process of its group; the parent alone decides how to end.
    os.setpgid(0, 0)
    logs.configure(settings.server.log_level, as_json=as_json)

    from boltseal.server.app import create_app

    write = logs.access_writer(settings.server.log_level, as_json=as_json)
    return create_app(settings, reload=reload, access_log=write, run=run)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, however that ends; elsewhere there is no such thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before it was asked
            os._exit(1)
