"""A process that has imported boltseal and forks for each command: started by `tests.boltseal_process`, once per test process.

    python -m tests.fork_server DESCRIPTOR     the descriptor of a Unix socket that keeps message boundaries

A message is a command: its words, environment and folder as JSON, and four descriptors: stdin, stdout and stderr of the command,
and a socket for its pid and, when it has ended, its wait status. The child restores what a new interpreter would have, and then
calls the function of Python's that `python -m boltseal` calls. Rules:

* No thread runs and no function of boltseal has been called before a fork: modules are only imported.
* An ended child stays a zombie until the caller has read its status and closed its socket, so that its pid is not used again.
* The process ends when the last copy of the caller's socket is closed.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TextIO

MESSAGE_BYTES: Final = 128 * 1024
"""How long a message may be; the socket refuses or cuts a longer one, so the caller checks the length."""
DESCRIPTORS: Final = 4
_LEFT_OUT: Final = ("boltseal.__main__", "boltseal.server.storage.metadata.migrations")
"""What the commands run themselves: their main module, and what alembic runs."""


def import_modules() -> None:
    """Import all modules of boltseal."""
    import boltseal

    for module in pkgutil.walk_packages(boltseal.__path__, "boltseal."):
        if not module.name.startswith(_LEFT_OUT):
            import_module(module.name)


@dataclass(slots=True)
class Forks:
    """The commands that were started and not yet forgotten. `statuses`: the sockets of their callers by pid."""

    control: socket.socket
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    wakes: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)
    statuses: dict[int, socket.socket | None] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)

    def serve(self) -> None:
        """Start commands until the caller is gone, which ends this process. Returns in each child, which is to run a command."""
        for end in self.wakes:
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakes[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.selector.register(self.control, selectors.EVENT_READ)
        self.selector.register(self.wakes[0], selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.control:
                    if self._start():
                        return
                elif key.fileobj is self.wakes[0]:
                    with suppress(BlockingIOError):
                        self.wakes[0].recv(1024)
                    self._report()
                else:
                    self._forget(key.data)

    def _start(self) -> bool:
        """Fork for one command. Return whether this is the child."""
        message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, DESCRIPTORS)
        if not message:
            os._exit(0)
        command = json.loads(message)
        pid = os.fork()
        if pid == 0:
            self._leave()
            _become(command, descriptors)
            return True
        for descriptor in descriptors[:-1]:
            os.close(descriptor)
        caller = socket.socket(fileno=descriptors[-1])
        self.statuses[pid] = caller
        caller.send(pid.to_bytes(8))
        self.selector.register(caller, selectors.EVENT_READ, pid)
        return False

    def _report(self) -> None:
        """Send each caller the status of its child that has ended."""
        for pid, caller in [*self.statuses.items()]:
            found = None if pid in self.ended else os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                continue
            self.ended[pid] = wait_status(found)
            if caller is None:
                self._reap(pid)
            else:
                with suppress(BrokenPipeError):
                    caller.send(self.ended[pid].to_bytes(8))

    def _forget(self, pid: int) -> None:
        """The caller has closed its socket: it has the status, or wants none."""
        caller = self.statuses[pid]
        assert caller is not None
        self.selector.unregister(caller)
        caller.close()
        self.statuses[pid] = None
        if pid in self.ended:
            self._reap(pid)

    def _reap(self, pid: int) -> None:
        os.waitpid(pid, 0)
        del self.statuses[pid], self.ended[pid]

    def _leave(self) -> None:
        """Close in the child what only this process uses, and handle signals as Python does at its start."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.selector.close()
        for end in (self.control, *self.wakes, *filter(None, self.statuses.values())):
            end.close()


def wait_status(found: Any) -> int:
    """Return what `os.waitpid` would have, from a result of `os.waitid`."""
    if found.si_code == os.CLD_EXITED:
        return int(found.si_status) << 8
    return int(found.si_status) | (0x80 if found.si_code == os.CLD_DUMPED else 0)


def _become(command: dict[str, Any], descriptors: list[int]) -> None:
    """Give this process the arguments, environment, folder, and streams of a command."""
    if command["new_session"]:
        os.setsid()
    os.umask(command["umask"])
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["environment"])
    for number, descriptor in enumerate(descriptors[:-1]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    _renew(sys.stdin, 0, "r")
    _renew(sys.stdout, 1, "w")
    _renew(sys.stderr, 2, "w")
    sys.path[0] = str(Path.cwd())  # as `python -m` does
    sys.argv[:] = ["-m", *command["words"]]


def _renew(stream: TextIO, descriptor: int, mode: str) -> None:
    """Initialize a standard stream again, as Python's start does for a pipe or a file.

    The object stays the same one, because modules have kept it: structlog the standard output.
    """
    assert isinstance(stream, io.TextIOWrapper)
    unbuffered = isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer, io.FileIO)
    binary: Any = open(descriptor, f"{mode}b", 0 if unbuffered and mode == "w" else -1, closefd=False)  # noqa: SIM115 - stays open
    raw = binary if isinstance(binary, io.FileIO) else binary.raw
    raw.name = f"<std{('in', 'out', 'err')[descriptor]}>"
    stream.__init__(  # type: ignore[misc]
        binary,
        stream.encoding,
        stream.errors,
        newline="\n",
        line_buffering=descriptor == 2,
        write_through=unbuffered,
    )
    stream.mode = mode  # type: ignore[misc]


def main() -> None:
    """Import boltseal, and serve. Returns in a child, which runs its command."""
    import_modules()
    assert threading.active_count() == len([*Path("/proc/self/task").iterdir()]) == 1
    gc.collect()
    gc.freeze()
    Forks(socket.socket(fileno=int(sys.argv[1]))).serve()


def run_command() -> None:
    """Run the command as `python -m boltseal` does. It ends this process as an interpreter ends, but frees no modules.

    That would copy the memory that is shared with the fork server: a third of the time that a short command takes.
    """
    try:
        runpy._run_module_as_main("boltseal")  # type: ignore[attr-defined]
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(ended.code & 0xFF)


if __name__ == "__main__":
    main()
    run_command()
