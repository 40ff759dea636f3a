"""Forward an engine's socket from another host by the system's `ssh`, with its configuration, keys, agent, known hosts.

    ssh [-p PORT] -L OURS/engine.sock:THEIRS -- [USER@]HOST cat

Rules:

- No local shell is involved: the arguments are a list, the host was checked by `EngineAddress` and follows `--`.
- The remote command is the constant `cat`. It echoes one line, which shows that the login works and the socket is
  ready. It ends when this process ends, for whatever reason, and ssh with it.
- ssh asks for no password, shares no connection, and forwards neither agent nor display.
- The socket is in a private temporary folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from boltseal.engines.address import EngineAddress
from boltseal.errors import Unavailable, quote

CONNECT_S: Final = 15
READY_S: Final = 40.0
END_S: Final = 5.0
STDERR_S: Final = 0.5
MAX_STDERR_BYTES: Final = 16 * 1024
_ECHO: Final = b"boltseal-is-through\n"
_OPTIONS: Final = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_S}",
    "ControlMaster=no",
    "ControlPath=none",
    "RemoteCommand=none",
    "RequestTTY=no",
    "PermitLocalCommand=no",
    "ServerAliveInterval=15",
    "StreamLocalBindUnlink=no",
)


class SshFailed(Unavailable):
    """ssh is missing, fails, or its target has no engine."""


class NoEngineThere(SshFailed):
    """The login works, but nothing listens at the socket on the other host."""


class Tunnel:
    """A forwarded socket. `socket`: its local path; `last_error`: the newest line of ssh's error output."""

    def __init__(self, address: EngineAddress, socket: Path) -> None:
        self.socket = socket
        self._address = address
        self._stderr = bytearray()
        self._stderr_closed = asyncio.Event()

    @property
    def last_error(self) -> str:
        """Return the last line of ssh's error output, or ""."""
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    async def read_stderr(self, stream: asyncio.StreamReader) -> None:
        """Read ssh's error output and keep its end."""
        while piece := await stream.read(4096):
            self._stderr += piece
            del self._stderr[:-MAX_STDERR_BYTES]
        self._stderr_closed.set()

    async def ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the login works and the socket exists. Raises: SshFailed."""
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process has no pipes")
        try:
            async with asyncio.timeout(READY_S):
                process.stdin.write(_ECHO)
                await process.stdin.drain()
                async for line in process.stdout:
                    if line == _ECHO:
                        break
                else:
                    await self._stderr_closed.wait()
                    raise self.failed()
        except TimeoutError as error:
            raise SshFailed(f"ssh to {self._address.login} did not answer within {READY_S:.0f} s") from error
        except (ConnectionError, ValueError) as error:  # ssh ended early, or sent an overlong line
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stderr_closed.wait(), END_S)
            raise self.failed() from error
        if not self.socket.is_socket():
            raise self.failed()

    async def broken(self) -> SshFailed:
        """Return the error of a failed request: ssh closes the connection before it reports why."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stderr_closed.wait(), STDERR_S)
        return self.failed()

    def failed(self) -> SshFailed:
        """Return the error with ssh's own reason."""
        return ssh_failed(self._address, self.last_error)


@asynccontextmanager
async def tunnel(address: EngineAddress) -> AsyncIterator[Tunnel]:
    """Open a tunnel to the engine at an `ssh://` address for the duration of the block. Raises: SshFailed."""
    with tempfile.TemporaryDirectory(prefix="boltseal-ssh-") as folder:
        forwarded = Tunnel(address, Path(folder) / "engine.sock")
        process = await _started(address, forwarded.socket)
        if process.stderr is None:
            raise AssertionError("the process has no pipes")
        reading = asyncio.create_task(forwarded.read_stderr(process.stderr))
        try:
            await forwarded.ready(process)
            yield forwarded
        finally:
            await end_process(process)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def ssh_words(address: EngineAddress) -> list[str]:
    """Return the command for ssh to an address, up to further options, `--`, login and remote command."""
    options = [word for option in _OPTIONS for word in ("-o", option)]
    port = [] if address.port is None else ["-p", str(address.port)]
    return ["ssh", "-a", "-x", "-T", *options, *port]


def ssh_failed(address: EngineAddress, why: str) -> SshFailed:
    """Return the error of a failed connection. `why`: the last line of ssh's error output, or ""."""
    if "open failed" in why:  # of the forwarded channel: ssh itself works
        return NoEngineThere(
            f"ssh to {address.login} failed to reach the engine's socket {address.path} there: {quote(why, 200)}; name the socket, "
            f"such as ssh://{address.login}/run/user/1000/docker.sock, or start the engine"
        )
    port = "" if address.port is None else f" -p {address.port}"
    reason = quote(why, 200) if why else "it gives no reason"
    return SshFailed(
        f"ssh to {address.login} failed: {reason}; `ssh{port} {address.login} true` must work without a password prompt"
    )


async def _started(address: EngineAddress, socket: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(*ssh_words(address), "-L", f"{socket}:{address.path}", "--", address.login, "cat"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise SshFailed(f"ssh can't be started ({error.strerror}); install openssh-client") from error


async def end_process(process: asyncio.subprocess.Process) -> None:
    """Close ssh's input, which ends the remote command and ssh; terminate or kill it if that does not help."""
    if process.stdin is not None:
        process.stdin.close()
    for end in (process.terminate, process.kill, None):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)
            return
        if end is not None:
            with contextlib.suppress(ProcessLookupError):
                end()
