"""An engine's socket on another host, by the system's `ssh`: its configuration, its keys, its agent, its known hosts.

    ssh [-p PORT] -L OURS/engine.sock:THEIRS -- [USER@]HOST cat

Rules kept:

* No shell is asked here: the arguments are a list, what stands for the host passed `EngineAddress`, and comes after `--`.
* The far end runs `cat`, a constant: it says that the login works and the socket here is ready (it gives a word back),
  and it ends as soon as we do, however we end, and ssh with it.
* ssh asks nobody for a password, joins no connection that others share, and brings neither agent nor display along.
* The socket lies in a folder that is ours alone.
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
COMPLAINT_S: Final = 0.5
MAX_SAID_BYTES: Final = 16 * 1024
_WORD: Final = b"boltseal-is-through\n"
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
    """ssh is not there, does not get through, or what it got through to is no engine."""


class Tunnel:
    """A socket here that ends at an engine there. `socket`: its path; `said`: what ssh complained about so far."""

    def __init__(self, address: EngineAddress, socket: Path) -> None:
        self.socket = socket
        self._address = address
        self._said = bytearray()
        self._heard = asyncio.Event()

    @property
    def said(self) -> str:
        """The last line of ssh's complaints, "" where it had none."""
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    async def hear(self, stream: asyncio.StreamReader) -> None:
        """Keep what ssh complains about, the newest of it."""
        while piece := await stream.read(4096):
            self._said += piece
            del self._said[:-MAX_SAID_BYTES]
        self._heard.set()

    async def ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the login works and the socket is there. SshFailed."""
        if process.stdin is None or process.stdout is None:
            raise AssertionError("started with pipes")
        try:
            async with asyncio.timeout(READY_S):
                process.stdin.write(_WORD)
                await process.stdin.drain()
                async for line in process.stdout:
                    if line == _WORD:
                        break
                else:
                    await self._heard.wait()
                    raise self.failed()
        except TimeoutError as error:
            raise SshFailed(f"ssh to {self._address.login} says nothing after {READY_S:.0f} s") from error
        except (ConnectionError, ValueError) as error:  # it ended before it read, or talks without an end of line
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), END_S)
            raise self.failed() from error
        if not self.socket.is_socket():
            raise self.failed()

    async def broken(self) -> SshFailed:
        """What to tell when a request through it fails: ssh closes the connection before it says why."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), COMPLAINT_S)
        return self.failed()

    def failed(self) -> SshFailed:
        """What to tell when it does not work."""
        login, why = self._address.login, self.said
        port = "" if self._address.port is None else f" -p {self._address.port}"
        reason = quote(why, 200) if why else "it gives no reason"
        return SshFailed(
            f"ssh to {login} failed: {reason}; `ssh{port} {login} true` must work by itself, without a password"
        )


@asynccontextmanager
async def tunnel(address: EngineAddress) -> AsyncIterator[Tunnel]:
    """A way to the engine at an `ssh://` address, for as long as the block lasts. SshFailed."""
    with tempfile.TemporaryDirectory(prefix="boltseal-ssh-") as folder:
        way = Tunnel(address, Path(folder) / "engine.sock")
        process = await _started(address, way.socket)
        if process.stderr is None:
            raise AssertionError("started with pipes")
        hearing = asyncio.create_task(way.hear(process.stderr))
        try:
            await way.ready(process)
            yield way
        finally:
            await _ended(process)
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)


async def _started(address: EngineAddress, socket: Path) -> asyncio.subprocess.Process:
    options = [word for option in _OPTIONS for word in ("-o", option)]
    port = [] if address.port is None else ["-p", str(address.port)]
    try:
        return await asyncio.create_subprocess_exec(
            *("ssh", "-a", "-x", "-T", *options, *port, "-L", f"{socket}:{address.path}", "--", address.login, "cat"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise SshFailed(f"ssh can't be started ({error.strerror}); install openssh-client") from error


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Close its input, so that the far end and then ssh end by themselves; end it where that does not help."""
    if process.stdin is not None:
        process.stdin.close()
    for end in (process.terminate, process.kill, None):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)
            return
        if end is not None:
            with contextlib.suppress(ProcessLookupError):
                end()
