"""Runs granian: one parent process that listens and watches, and worker processes that serve.

    boltseal serve ── watches, restarts a worker that died
      └─ workers    ── an event loop each, with the application of `app.create_app`

- A worker that ends unexpectedly costs the requests that it had. It is started again, after a pause that grows while it keeps
  ending; the server goes on whatever happens to its workers. The log, /readyz and the metrics report it (`RunFolder`).
- A worker gets its settings from its parent. At SIGHUP it reads the configuration again and applies what a running
  server can; an invalid configuration changes nothing. Workers are replaced only if the certificate files have changed
  and are valid: each old one when a new one listens, with `shutdown_timeout_s` to finish.
- granian shares its port with any other process that requests it (SO_REUSEPORT), so that a second server would silently
  take half of the requests. Therefore the port is first bound exclusively, to check that it is free.
- Workers are killed when their parent ends, even by SIGKILL, so that no orphan keeps serving.
- Workers are forked while a thread of the parent waits until the first one listens. The thread takes no lock of the C
  library that a fork would copy in its locked state; `getaddrinfo` does, and a worker would wait for it for ever.
- Shutdown is bounded: requests in progress get `shutdown_timeout_s`; what was acknowledged is on disk.

docs/adr/0007-what-granian-asks-of-us.md describes what granian's behaviour requires of the application.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Final

import structlog
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer
from granian.server.mp import WorkerProcess

from boltseal.errors import BoltsealError, Invalid, Unavailable, kind_of, operators_message
from boltseal.loading import deferred
from boltseal.server import logs
from boltseal.server.listen_address import ListenAddress
from boltseal.server.settings import Settings
from boltseal.server.storage.certificate import check_certificate
from boltseal.server.storage.clock_guard import ClockGuard
from boltseal.server.storage.metrics import EndedWorker, RunFolder, WorkerRestarts
from boltseal.server.store_factory import now_us

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp

    from boltseal.server import app
else:  # the parent process runs without HTTP code
    app = deferred("boltseal.server.app")

CONNECTION_BUFFER_BYTES: Final = 64 * 1024
"""For reading and for writing, of each connection. At 128 KiB, 200 pushes on a busy machine took 100 MiB instead of 60."""
HEADER_TIMEOUT_MS: Final = 30_000
CONNECT_EVERY_S: Final = 0.02
CONNECT_TIMEOUT_S: Final = 1.0
RESTART_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""How long after its n-th end in a row a worker is started again; the last one counts for all later ends."""
HEALTHY_AFTER_S: Final = 10.0
"""A worker that ran for so long has started successfully: its next end is the first in a row."""
_PR_SET_PDEATHSIG: Final = 1

_log = structlog.get_logger(__name__)


def refuse_taken_port(address: ListenAddress) -> None:
    """Check that the address belongs to this machine and its port is free. Raises: Invalid."""
    with socket.socket(_family(address.host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise Invalid(
                f"cannot listen on {address}: {(error.strerror or str(error)).lower()}; "
                "choose another address with --listen HOST:PORT"
            ) from error


class Worker(WorkerProcess):
    """A worker process whose end is seen at once.

    granian waits for it in two threads. `multiprocessing` reports a process that the other thread collects as alive for a
    moment: granian would log that it kills a worker which has ended, and send SIGKILL to an id that is free again.
    """

    def is_alive(self) -> bool:
        """Return whether the process runs: it holds the other end of its sentinel until it ends."""
        return bool(super().is_alive()) and not connection.wait([self.inner.sentinel], 0)  # type: ignore[no-untyped-call]  # granian's has no annotations


@dataclass(slots=True)
class _Ended:
    """A worker that ended unexpectedly. `failures`: how often in a row. `due_s`: its next start, None if it runs again."""

    reason: str
    failures: int
    due_s: float | None


class _Server(MPServer):
    """A granian server that outlives its workers, and whose workers reload their settings at SIGHUP.

    granian ends when a worker ends twice within 5.5 s, and it can miss the end of a worker while it starts another. So its
    loop is replaced by one that looks at the processes themselves; granian's watching threads only wake it up. At SIGHUP
    granian would replace the workers, which aborts transfers.
    """

    on_hangup: Callable[[], bool]
    """Reloads the parent's settings; returns True if the workers must be replaced."""

    def __init__(self, run: Path, **options: Any) -> None:
        super().__init__("boltseal", **options)
        self._run = run
        self._ended: dict[int, _Ended] = {}
        self._restarts = 0
        # A worker that ends while the server does must not make granian's exit code 1.
        self.on_shutdown(self.interrupt_children.clear)

    def _spawn_worker(self, *args: Any, **kwargs: Any) -> WorkerProcess:
        made = super()._spawn_worker(*args, **kwargs)
        made.__class__ = Worker  # granian names its class in the middle of thirty arguments
        return made

    def signal_handler_reload(self, *_: object, **__: object) -> None:
        """Handle SIGHUP."""
        if self.on_hangup():
            super().signal_handler_reload()  # type: ignore[no-untyped-call]  # granian has no annotations
            return
        for worker in self.wrks:
            if worker.inner.exitcode is None:  # the process ID of an ended worker may be another program's by now
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.inner.pid, signal.SIGHUP)

    def _serve_loop(self, spawn_target: object, target_loader: object) -> None:
        while not self.interrupt_signal:
            if self.reload_signal:
                self._reload(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # granian has no annotations
            self.interrupt_children.clear()
            now_s = time.monotonic()
            for index in range(len(self.wrks)):
                self._look_after(index, now_s, spawn_target, target_loader)
            self.main_loop_interrupt.wait(self._next_look_s(now_s))
            self.main_loop_interrupt.clear()

    def _look_after(self, index: int, now_s: float, spawn_target: object, target_loader: object) -> None:
        """Notice the end of a worker, and start it again when its pause is over."""
        worker, ended = self.wrks[index], self._ended.get(index)
        code = worker.inner.exitcode
        if code is None:
            if ended is not None and now_s - worker.birth >= HEALTHY_AFTER_S:
                del self._ended[index]
                self._publish()
            elif ended is not None and ended.due_s is not None:  # replaced with a new certificate
                ended.due_s = None
                self._publish()
            return
        if ended is None or ended.due_s is None:
            lived_s = now_s - worker.birth
            failures = 1 if ended is None or lived_s >= HEALTHY_AFTER_S else ended.failures + 1
            pause_s = RESTART_PAUSES_S[min(failures, len(RESTART_PAUSES_S)) - 1]
            ended = self._ended[index] = _Ended(_end_of(code), failures, now_s + pause_s)
            _log.error(
                "worker ended unexpectedly",
                reason=ended.reason,
                worker=index + 1,
                pid=worker.inner.pid,
                lived_s=round(lived_s, 1),
                failures_in_a_row=failures,
                restart_in_s=pause_s,
            )
            self._publish()
        if ended.due_s is not None and now_s >= ended.due_s:
            self._restart(index, ended, spawn_target, target_loader)

    def _restart(self, index: int, ended: _Ended, spawn_target: object, target_loader: object) -> None:
        worker = self._spawn_worker(index, spawn_target, target_loader)
        try:
            worker.start()  # type: ignore[no-untyped-call]  # granian has no annotations
        except OSError as error:  # the machine has no memory or process IDs left
            ended.due_s = time.monotonic() + RESTART_PAUSES_S[-1]
            _log.error("worker cannot be started", reason=str(error), worker=index + 1, again_in_s=RESTART_PAUSES_S[-1])
        else:
            self.wrks[index] = worker
            ended.due_s = None
            self._restarts += 1
            _log.warning("worker started again", worker=index + 1, pid=worker.inner.pid)
        self._publish()

    def _next_look_s(self, now_s: float) -> float | None:
        """Return when the loop must look again without being woken up, in seconds from now; None: never."""
        moments = [
            self.wrks[index].birth + HEALTHY_AFTER_S if ended.due_s is None else ended.due_s
            for index, ended in self._ended.items()
        ]
        first = min(moments, default=math.inf)
        return None if math.isinf(first) else max(0.0, first - now_s)

    def _publish(self) -> None:
        """Let the workers report the state in /readyz and /metrics."""
        ended = [EndedWorker(index + 1, each.reason, each.failures, each.due_s) for index, each in self._ended.items()]
        try:
            RunFolder.save_restarts(self._run, WorkerRestarts(self._restarts, ended))
        except OSError as error:  # a full disk: the next change tries again
            _log.warning("the state of the workers cannot be saved", reason=str(error))


def _end_of(code: int) -> str:
    """Return how a process ended, from its exit code as `multiprocessing` has it: negative for a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def serve(
    settings: Settings,
    reload: Callable[[], Settings],
    *,
    as_json: bool,
    listening: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        reload: reads the configuration again; called at SIGHUP, here and in every worker.
        as_json: write the log as JSON.
        listening: called once, when connections are accepted.

    Raises:
        Unavailable: the workers could not be started at all; the log has the reason.
    """
    server = settings.server
    run = RunFolder.make(server.data)
    ClockGuard(run).confirm(now_us())
    granian = _server(settings, run, as_json=as_json)
    parent = os.getpid()
    in_force = settings
    served = check_certificate(server.tls_cert, server.tls_key)

    def hangup() -> bool:
        nonlocal in_force, served
        with contextlib.suppress(BoltsealError):  # the workers log the error
            in_force = in_force.with_live_changes(reload())
        found = served
        with contextlib.suppress(BoltsealError):
            found = check_certificate(server.tls_cert, server.tls_key)
        changed, served = found != served, found
        return changed

    def worker() -> ASGIApp:
        return _worker(in_force, reload, parent, run, as_json=as_json)

    granian.on_hangup = hangup
    granian.on_startup(lambda: call_when_listening(server.address, listening))
    try:
        granian.serve(target_loader=worker, wrap_loader=False)
    except SystemExit as stopped:
        if stopped.code:
            raise Unavailable(
                "the server stopped: its workers could not be started; see the log for the reason"
            ) from stopped


def _server(settings: Settings, run: Path, *, as_json: bool) -> _Server:
    """Return granian's server with these settings."""
    server = settings.server
    return _Server(
        run,
        address=server.address.host,
        port=server.address.port,
        interface=Interfaces.ASGI,
        workers=server.workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        backlog=server.max_connections,
        backpressure=server.max_connections,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=CONNECTION_BUFFER_BYTES),
        ssl_cert=server.tls_cert,
        ssl_key=server.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.debug if server.log_level == "debug" else LogLevels.warning,
        log_dictconfig=logs.dict_config(server.log_level, as_json=as_json),
        workers_kill_timeout=server.shutdown_timeout_s,
    )


def call_when_listening(address: ListenAddress, call: Callable[[], None]) -> None:
    """Call a function when the server accepts connections, from a thread: granian's own hook runs too early."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - connected to, not bound

    def watch() -> None:
        while True:
            time.sleep(CONNECT_EVERY_S)
            with contextlib.suppress(OSError), socket.socket(_family(host)) as probe:
                probe.settimeout(CONNECT_TIMEOUT_S)
                probe.connect((host, address.port))
                call()
                return

    threading.Thread(target=watch, name="boltseal-wait-listening", daemon=True).start()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _worker(settings: Settings, reload: Callable[[], Settings], parent: int, run: Path, *, as_json: bool) -> ASGIApp:
    """Return the application of a worker. It runs first in the worker, and ties it to its parent."""
    _die_with(parent)
    # The parent's handlers are inherited by the fork and would ignore a SIGTERM during the start.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # pending until the application handles it
    # Ctrl-C signals every process of the terminal's group; only the parent must handle it.
    os.setpgid(0, 0)
    logs.configure(settings.server.log_level, as_json=as_json)

    write = logs.access_writer(settings.server.log_level, as_json=as_json)
    return app.create_app(settings, reload=reload, access_log=write, run=run, clock_guard=ClockGuard(run))


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends; other systems have no such feature."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before prctl
            os._exit(1)


def in_own_process(work: Callable[[], None]) -> None:
    """Do work before the workers are started, in a process that ends with it. Raises what it raises, as its kind of error.

    The client of object stores has threads, which a process that is forked afterwards would lack and wait for.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(work, sending))
    process.start()
    sending.close()
    try:
        error: BoltsealError | None = receiving.recv()
    except EOFError:
        error = Unavailable("the start of the server ended early; see the log")
    finally:
        process.join()
        receiving.close()
    if error is not None:
        raise error


def _report(work: Callable[[], None], sending: connection.Connection) -> None:
    """Do work and send its error, None if there is none."""
    try:
        work()
    except BoltsealError as error:
        sending.send(kind_of(error)(operators_message(error)))
    else:
        sending.send(None)
