"""Query a cluster through the user's own `kubectl` and its configuration; only `get` with JSON output.

Arguments are a list, and user input can't become an option. An answer is bounded in size and time. kubectl ends with
this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

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
    for text in (context, namespace or "default"):
        if not text or not text.isprintable():
            raise ContextInvalid(
                f"{quote(text)} is not a context or namespace of kubectl; see `kubectl config get-contexts`"
            )
    scope = ["--all-namespaces"] if everywhere else [] if namespace is None else [f"--namespace={namespace}"]
    process = await _started(f"--context={context}", _REQUEST, "get", what, *scope, "--output=json")
    if process.stdout is None or process.stderr is None:
        raise AssertionError("the process has no pipes")
    streams = (process.stdout, max_bytes), (process.stderr, MAX_STDERR_BYTES)
    reading = [asyncio.ensure_future(_read(*each)) for each in streams]
    try:
        async with asyncio.timeout(within_s):
            out, errors = await asyncio.gather(*reading)
            code = await process.wait()
    except TimeoutError as error:
        raise KubectlFailed(f"kubectl got no answer from {context} within {within_s:g} s") from error
    finally:
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await _ended(process)
    if code != 0:
        raise KubectlFailed(f"kubectl can't get the {what} of {quote(context)[1:-1]}: {_why(errors)}")
    return out


async def _started(*arguments: str) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            "kubectl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
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
