"""Starts commands of boltseal as `python -m boltseal` does, without an interpreter that starts and imports for each of them.

`BoltsealProcess` is a `subprocess.Popen`. Its process is forked by `tests.fork_server`, which has imported boltseal. That saves
a third of a second of processor time for a command, and more than one for a server. The process has its own pid, environment,
streams, signals and exit status, as any other.

Where the start itself is the subject (what is imported, how much memory is used, which program starts it, as which user),
tests run `[sys.executable, "-m", "boltseal"]`; so do benchmarks. This module does so too on terminals, and where a variable
differs that an interpreter, a library or a module reads at its start. tests/test_boltseal_process.py compares both.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Final

from tests.fork_server import MESSAGE_BYTES

ROOT: Final = Path(__file__).parents[1]
NOT_TESTED: Final = (3, 14)
"""The first version of Python in which the private functions that are overridden here, or called by `tests.fork_server`, are not tested."""
COMMAND: Final = (sys.executable, "-m", "boltseal")
READ_AT_START: Final = (
    *(
        "PYTHON",
        "LC_",
        "LD_",
        "MALLOC_",
        "GLIBC_",
        "OPENSSL_",
        "PROMETHEUS_",
        "prometheus_",
        "PSYCOPG_",
        "PYDANTIC_",
        "TYPER_",
    ),
    *("_PYTHON", "_TYPER_", "LANG", "TZ", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH"),
)
"""How the names of variables begin that are read before a command runs."""
_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if not name.startswith("BOLTSEAL_")}
_ASKING: Final = threading.Lock()


class BoltsealProcess(subprocess.Popen[Any]):
    """A running command. The arguments after its words are those of `subprocess.Popen`.

    It overrides private methods of `subprocess.Popen`: how the process is started, and how its status is asked for. So it forks
    only in versions of Python before `NOT_TESTED`; a newer one starts interpreters until tests/test_boltseal_process.py passes there.
    """

    forks = False
    """Whether the fork server is used: in sessions of pytest."""
    _status: socket.socket | None = None

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_new_session: bool = False,
    ) -> None:
        super().__init__(
            [*COMMAND, *map(str, words)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            env=env,
            cwd=cwd,
            start_new_session=start_new_session,
        )

    def _execute_child(self, args: list[str], *others: Any) -> None:
        named = signature(super()._execute_child).bind(args, *others).arguments  # type: ignore[misc]
        pipes = [named[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        environment = os.environ if named["env"] is None else named["env"]
        message = _message(args[len(COMMAND) :], environment, named["cwd"], bool(named["start_new_session"]))
        if message is None or not self.forks or any(map(os.isatty, streams)):
            super()._execute_child(args, *others)  # type: ignore[misc]
            return
        self._status, theirs = socket.socketpair()
        with theirs, _ASKING:
            socket.send_fds(_fork_server(), [message], [*streams, theirs.fileno()])
        self.pid = self._receive(0)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: int | None = None, **others: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(_deadstate, **others)  # type: ignore[misc, no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        if self.returncode is not None:
            return 0, 0
        try:
            status = self._receive(socket.MSG_DONTWAIT if wait_flags else 0)
        except BlockingIOError:
            return 0, 0
        self._status.close()
        return self.pid, status

    def _receive(self, flags: int) -> int:
        assert self._status is not None
        number = self._status.recv(8, flags)
        if not number:
            raise RuntimeError(f"the fork server ended before {self.args!r}")
        return int.from_bytes(number)


def pytest_configure() -> None:
    """Use the fork server in this process, if the private methods of its Python are known."""
    BoltsealProcess.forks = sys.version_info < NOT_TESTED


def boltseal_process(words: Sequence[str | Path], before: Sequence[str] = (), **options: Any) -> subprocess.Popen[Any]:
    """Start a command. `before`: the program that starts it, which needs an interpreter. `options`: of `BoltsealProcess`."""
    if before:
        return subprocess.Popen([*before, *COMMAND, *map(str, words)], **options)
    return BoltsealProcess(words, **options)


def _message(
    words: list[str], environment: Mapping[str, str], cwd: str | Path | None, new_session: bool
) -> bytes | None:
    """Return the message for the fork server, None for a command that needs an interpreter of its own."""
    if _start_variables(environment) != _start_variables(_ENVIRONMENT):
        return None
    message = json.dumps(
        {
            "words": words,
            "environment": dict(environment),
            "cwd": os.fspath(cwd or Path.cwd()),
            "umask": _umask(),
            "new_session": new_session,
        }
    ).encode()
    return message if len(message) < MESSAGE_BYTES else None


def _start_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}


def _umask() -> int:
    """Return the umask of this process, which `os.umask` would change for all of its threads."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)


@cache
def _fork_server() -> socket.socket:
    """Start the fork server of this process. It ends with the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_ENVIRONMENT,
            cwd=ROOT,
        )
    atexit.register(_end, ours, process, os.getpid())
    return ours


def _end(ours: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    """End the fork server at the end of the process that started it, not of one that a test has forked."""
    if os.getpid() == owner:
        ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        process.wait()
