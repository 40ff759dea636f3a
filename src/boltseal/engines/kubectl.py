"""Run the user's own `kubectl` with its configuration, so that every way to log in works as it does for the user.

Arguments are a list, and user input can't become an option. An answer is bounded in size and time. kubectl ends with
this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from typing import Final, NamedTuple

from boltseal.errors import Invalid, Unavailable, quote

ANSWER_S: Final = 120.0
END_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
MAX_STDERR_BYTES: Final = 64 * 1024
_REQUEST: Final = "--request-timeout=60s"


class ContextInvalid(Invalid):
    """A malformed context or namespace."""


class KubectlFailed(Unavailable):
    """kubectl is missing, or got no answer."""


async def get(
    context: str,
    what: str,
    *,
    namespace: str | None = None,
    everywhere: bool = False,
    within_s: float = ANSWER_S,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> bytes:
    """Return the output of `kubectl get WHAT -o json`, at most `max_bytes`, within `within_s`. Raises: KubectlFailed.

    `namespace` None: the context's own, or with `everywhere` all.
    """
    check_name(namespace or "default")
    scope = ["--all-namespaces"] if everywhere else [] if namespace is None else [f"--namespace={namespace}"]
    done = await run(context, ["get", what, *scope, "--output=json"], within_s=within_s, max_bytes=max_bytes)
    if done.code != 0:
        raise KubectlFailed(f"kubectl can't get the {what} of {quote(context)[1:-1]}: {_why(done.errors)}")
    return done.output


class Finished(NamedTuple):
    """The end of a kubectl: its exit code, its output, and what it wrote to stderr."""

    code: int
    output: bytes
    errors: bytes


def check_name(text: str) -> None:
    """Check a context or namespace. Raises: ContextInvalid."""
    if not text or not text.isprintable():
        raise ContextInvalid(
            f"{quote(text)} is not a context or namespace of kubectl; see `kubectl config get-contexts`"
        )


async def run(
    context: str,
    arguments: Sequence[str],
    sent: bytes | None = None,
    *,
    within_s: float = ANSWER_S,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Finished:
    """Run kubectl in a context until it ends. `sent`: its standard input. Raises: KubectlFailed, ContextInvalid.

    A kubectl that writes does not outlive this process, where `setpriv` is installed.
    """
    check_name(context)
    process = await _started(
        [] if sent is None else _ends_with_us(), sent, f"--context={context}", _REQUEST, *arguments
    )
    if process.stdout is None or process.stderr is None:
        raise AssertionError("the process has no pipes")
    streams = (process.stdout, max_bytes), (process.stderr, MAX_STDERR_BYTES)
    reading = [asyncio.ensure_future(_read(*each)) for each in streams]
    sending = asyncio.ensure_future(_send(process.stdin, sent))
    try:
        async with asyncio.timeout(within_s):
            out, errors = await asyncio.gather(*reading)
            code = await process.wait()
    except TimeoutError as error:
        raise KubectlFailed(f"kubectl got no answer from {context} within {within_s:g} s") from error
    finally:
        for each in (*reading, sending):
            each.cancel()
        await asyncio.gather(*reading, sending, return_exceptions=True)
        await _ended(process)
    return Finished(code, out, errors)


def _ends_with_us() -> list[str]:
    """Return the words that make a program end when this process is killed; none where `setpriv` is missing."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") is not None else []


async def _send(stream: asyncio.StreamWriter | None, sent: bytes | None) -> None:
    if stream is not None:
        with contextlib.suppress(ConnectionError):
            stream.write(sent or b"")
            await stream.drain()
        stream.close()


async def _started(before: Sequence[str], sent: bytes | None, *arguments: str) -> asyncio.subprocess.Process:
    try:
        if shutil.which("kubectl") is None:  # setpriv would say so less clearly
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return await asyncio.create_subprocess_exec(
            *before,
            "kubectl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL if sent is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise KubectlFailed(
            f"kubectl can't be started ({error.strerror}); install it, and check that it is in PATH"
        ) from error


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    whole = bytearray()
    while piece := await stream.read(1024 * 1024):
        whole += piece
        if len(whole) > most:
            raise KubectlFailed(f"kubectl's output is longer than {most // 1024} KiB")
    return bytes(whole)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Terminate the process if it runs, and drain its pipes so that they are closed."""
    for end in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.communicate(), END_S)
            return


def _why(errors: bytes) -> str:
    """Return the last line of stderr."""
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return quote(lines[-1].strip(), 300) if lines else "it gives no reason"
