"""Run one program on another host by the system's `ssh`, with its configuration, keys, agent and known hosts.

    ssh [-p PORT] -- [USER@]HOST 'PROGRAM ARGUMENT...'

The arguments are quoted for the shell of the other host. No local shell is involved, ssh asks for no password, and forwards
nothing. The answer is limited in size and time; what is beyond the limits is not read. The program's standard input stays open,
without data, until this process closes it or ends: sshd does not end the program, which can end by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.engines.address import DOCKER_SOCKET, EngineAddress, EngineAddressInvalid
from boltseal.engines.ssh_tunnel import MAX_STDERR_BYTES, SshFailed, end_process, ssh_failed, ssh_words
from boltseal.errors import quote

SSH_FAILED: Final = 255
"""The exit code of ssh itself; a program there could end with it too, and has not done its work then either."""
_CONTEXT: Final = ("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
_PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """What a program on another host printed. `last_error`: the last line of its error output, or ""."""

    code: int
    out: bytes
    last_error: str


def ssh_host(text: str) -> EngineAddress:
    """Parse `ssh://[USER@]HOST[:PORT]`, without a path. Raises: EngineAddressInvalid."""
    try:
        address = EngineAddress.parse(text)
    except EngineAddressInvalid:
        address = None  # its message offers what is no host
    if address is None or address.scheme != "ssh" or address.path != DOCKER_SOCKET:
        raise EngineAddressInvalid(f"{quote(text)} is not an ssh address; expected ssh://[USER@]HOST[:PORT]")
    return address


async def run_there(
    address: EngineAddress, program: Sequence[str], *, max_bytes: int, timeout_s: float
) -> RemoteAnswer:
    """Run a program and return its answer. Raises: SshFailed: it could not be run, or its answer exceeds a limit."""
    try:
        process = await asyncio.create_subprocess_exec(
            *ssh_words(address), "-o", "ClearAllForwardings=yes", "--", address.login, shlex.join(program),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise SshFailed(f"ssh can't be started ({error.strerror}); install openssh-client") from error
    if process.stdout is None or process.stderr is None:
        raise AssertionError("the process has no pipes")
    errors = asyncio.create_task(_end_of(process.stderr))
    try:
        async with asyncio.timeout(timeout_s):
            out = await _whole(process.stdout, max_bytes)
            if out is None:
                raise SshFailed(f"{address.login} answered with more than {max_bytes} bytes, which were not read")
            code, last_error = await process.wait(), await errors
    except TimeoutError as error:
        raise SshFailed(f"{address.login} did not answer within {timeout_s:.0f} s") from error
    finally:
        errors.cancel()
        await end_process(process)
        with contextlib.suppress(asyncio.CancelledError):
            await errors
    if code == SSH_FAILED:
        raise ssh_failed(address, last_error)
    return RemoteAnswer(code, out, last_error)


async def engine_socket_there(address: EngineAddress) -> str | None:
    """Return the path of the engine's socket on another host by its Docker context or DOCKER_HOST; None if it is unknown."""
    try:
        answer = await run_there(address, _CONTEXT, max_bytes=4096, timeout_s=30)
        found = EngineAddress.parse(answer.out.decode().strip()) if answer.code == 0 else None
    except (SshFailed, EngineAddressInvalid, UnicodeDecodeError):
        return None
    return found.path if found is not None and found.scheme == "unix" else None


async def _whole(stream: asyncio.StreamReader, max_bytes: int) -> bytes | None:
    """Read a stream to its end; None if it has more than `max_bytes`."""
    got = bytearray()
    while piece := await stream.read(_PIECE_BYTES):
        got += piece
        if len(got) > max_bytes:
            return None
    return bytes(got)


async def _end_of(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end, and return its last line."""
    got = bytearray()
    while piece := await stream.read(_PIECE_BYTES):
        got += piece
        del got[:-MAX_STDERR_BYTES]
    lines = got.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
