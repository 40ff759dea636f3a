"""Run a tool that renders a part of a project, within limits.

A checked-out project is untrusted, and so is what a tool prints about it:

- The command is fixed here; nothing of it comes from the project but a path, which is inside the project. No shell.
- The environment is minimal, with an empty home: the result depends on the project alone. Relative folders of PATH are left out:
  they would be folders of the project.
- Without a network, where the system has `unshare` and allows it: a remote base can't be fetched. Elsewhere proxies and
  git are pointed at nothing, which the tools respect.
- A run has its own process group, a time limit and a limit on output. A failure is one line.
- `RunningTools.end` ends the tools that run. One is also ended if this process is killed, where `setpriv` is installed;
  elsewhere by its limit of processor time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable, quote

TIME_LIMIT_S: Final = 60.0
MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024
MAX_MESSAGE: Final = 300
_KEPT_ERROR_BYTES: Final = 64 * 1024
_PIECE: Final = 64 * 1024
_NOWHERE: Final = "http://127.0.0.1:9"  # the discard port: a connection is refused at once
_WITHOUT_NETWORK: Final = (
    ("unshare", "--user", "--map-current-user", "--net", "--"),
    ("unshare", "--net", "--"),  # root, where user namespaces are refused, as in a chroot
)
_ENDS_WITH_PARENT: Final = (("setpriv", "--pdeathsig", "KILL", "--"),)


class NotRendered(Unavailable):
    """A tool is missing, failed, or printed what can't be used."""


class RunningTools:
    """The tools that run, each with its process group, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._ended = False

    def end(self) -> None:
        """End all that run, and each that is started from now on."""
        with self._lock:
            self._ended = True
            for group in self._groups:
                _kill(group)

    def add(self, group: int) -> None:
        """Remember a process group until `remove`."""
        with self._lock:
            self._groups.add(group)
            if self._ended:
                _kill(group)

    def remove(self, group: int) -> None:
        """End a process group. Its number may be used again after its process is waited for."""
        with self._lock:
            self._groups.discard(group)
            _kill(group)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def tool_environment(home: Path, path: str, docker_config: str) -> dict[str, str]:
    """Return the environment of a tool. `home`: an empty folder. `docker_config`: where Docker has its plugins."""
    folders = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    return {
        "PATH": absolute_folders(path),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "DOCKER_CONFIG": str(Path.cwd() / docker_config),
        "GIT_ALLOW_PROTOCOL": "none",
        "KUBECONFIG": os.devnull,
        **dict.fromkeys(folders, str(home)),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NOWHERE),
    }


def absolute_folders(path: str) -> str:
    """Return the folders of a PATH that do not depend on the current one."""
    return os.pathsep.join(each for each in path.split(os.pathsep) if Path(each).is_absolute())


def run_tool(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    running: RunningTools | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    max_bytes: int = MAX_OUTPUT_BYTES,
) -> bytes:
    """Return what a tool prints. `running`: knows it while it runs.

    Raises: NotRendered: it can't be run, fails, takes too long, or prints too much.
    """
    running = running or RunningTools()
    prefix: list[str] = []
    for ways in (_WITHOUT_NETWORK, _ENDS_WITH_PARENT):
        prefix += next((way for way in ways if _is_possible([*prefix, *way], environment)), ())
    try:
        process = subprocess.Popen(  # noqa: S603 - the words are fixed but for a path inside the project
            [*prefix, *words],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise NotRendered(f"{words[0]} can't be run: {error.strerror}") from error
    if sys.platform == "linux":  # it ends even if this process is killed meanwhile
        with contextlib.suppress(ProcessLookupError, ValueError):
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (int(time_limit_s), int(time_limit_s)))
    try:
        running.add(process.pid)
        printed, errors = _outputs(process, words[0], time.monotonic() + time_limit_s, time_limit_s, max_bytes)
    finally:
        running.remove(process.pid)
        code = process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if code:
        raise NotRendered(_reason(errors) or f"{words[0]} ended with exit code {code}")
    return printed


def _outputs(
    process: subprocess.Popen[bytes], name: str, ends: float, time_limit_s: float, max_bytes: int
) -> tuple[bytes, bytes]:
    """Read both pipes until they are closed and the process has ended."""
    printed, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as ready:
        for pipe, into in ((process.stdout, printed), (process.stderr, errors)):
            if pipe is not None:
                ready.register(pipe, selectors.EVENT_READ, into)
        while ready.get_map():
            events = ready.select(max(0.0, ends - time.monotonic()))
            if not events or time.monotonic() > ends:
                raise NotRendered(f"{name} took longer than {time_limit_s:g} s and was ended")
            for key, _ in events:
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    ready.unregister(key.fileobj)
                key.data.extend(piece)
            del errors[:-_KEPT_ERROR_BYTES]
            if len(printed) > max_bytes:
                raise NotRendered(f"{name} printed more than {max_bytes} bytes and was ended")
    try:
        process.wait(max(0.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise NotRendered(f"{name} took longer than {time_limit_s:g} s and was ended") from error
    return bytes(printed), bytes(errors)


def _is_possible(prefix: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether a program can be started with these words before its own."""
    if shutil.which(prefix[0], path=environment.get("PATH")) is None:
        return False
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            [*prefix, "true"], env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _reason(errors: bytes) -> str:
    """Return what a tool says about its failure, as one quoted line."""
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and "level=warning" not in line]
    last = next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "")
    if len(last) > MAX_MESSAGE:  # tools put the cause last, behind each step that led to it
        last = f"{last[: MAX_MESSAGE // 3]} ... {last[len(last) - 2 * MAX_MESSAGE // 3 + 5 :]}"
    return quote(last, MAX_MESSAGE) if last else ""
