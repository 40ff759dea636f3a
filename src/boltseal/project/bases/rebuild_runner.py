"""Run an `[[on_outdated]]` action: a command or a webhook, with limits on time and output.

A command ends when its own process ends. Processes that it leaves behind in its process group are terminated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import httpx2

from boltseal import __version__
from boltseal.config import environment
from boltseal.errors import quote
from boltseal.project.bases.left_over_group import forget_group, record_group

KEPT_BYTES: Final = 2000
DRAINED_BYTES: Final = 1024 * 1024
"""How much output is still read after the end of a command; only left-over processes can write more."""
END_S: Final = 5.0
POLL_S: Final = 0.05
CLOUD_EVENT: Final = "application/cloudevents+json; charset=utf-8"


class RunResult(NamedTuple):
    """The result of an attempt: its outcome in words of boltseal (`exit code 4`), and the last line of output, which is untrusted."""

    succeeded: bool
    outcome: str
    output: str = ""

    @property
    def summary(self) -> str:
        """Outcome and output on one line."""
        return "; ".join(part for part in (self.outcome, self.output) if part)


async def run_command(
    words: Sequence[str],
    event: bytes,
    timeout_s: float,
    group_file: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> RunResult:
    """Run a command with the event on its standard input. Processes that it leaves behind are terminated.

    `group_file`: where its process group is recorded while it runs. `variables`: added to its environment.
    """
    output = bytearray()
    with (
        tempfile.TemporaryFile() as stdin,  # not a pipe: writing to one blocks if the command does not read it
        _capture(output) as stdout,
    ):
        stdin.write(event)
        stdin.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=stdin,
                stdout=stdout,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env=None if variables is None else {**environment(), **variables},
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return RunResult(False, f"{quote(words[0])} can't be run: {reason}")
        code = None
        try:
            if group_file is not None:
                record_group(group_file, process.pid)
            async with asyncio.timeout(timeout_s):
                code = await process.wait()
        except TimeoutError:
            pass
        finally:
            await _terminate_group(process)
            if group_file is not None:
                forget_group(group_file)
    if code is None:
        return RunResult(False, f"it took longer than {timeout_s:g} s and was terminated", _last_line(output))
    if code == 0:
        return RunResult(True, "", _last_line(output))
    return RunResult(False, f"exit code {code}" if code > 0 else f"signal {-code}", _last_line(output))


async def post_webhook(url: str, event: bytes, timeout_s: float, token: str | None) -> RunResult:
    """Send the event. Only a 2xx is a success. Redirects are not followed, because they would receive the token."""
    headers = {"content-type": CLOUD_EVENT, "user-agent": f"boltseal/{__version__}"}
    by_tls = url.lower().startswith("https:")  # plain HTTP is allowed for this machine only: not through a proxy
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx2.AsyncClient(timeout=min(timeout_s, 30.0), follow_redirects=False, trust_env=by_tls) as client,
            client.stream("POST", url, content=event, headers=headers) as answer,
        ):
            return RunResult(answer.is_success, f"HTTP {answer.status_code}")
    except (httpx2.HTTPError, TimeoutError) as error:
        return RunResult(False, f"no response: {type(error).__name__}")


@contextmanager
def _capture(output: bytearray) -> Iterator[int]:
    """Create a pipe to write to, and keep the last KEPT_BYTES written to it.

    Not a pipe of asyncio: with that, a process counts as running until all its descendants have closed the pipe.
    """
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def read_available() -> int:
        try:
            piece = os.read(reader, 64 * 1024)
        except BlockingIOError:
            return 0
        if not piece:
            loop.remove_reader(reader)
        output.extend(piece)
        del output[:-KEPT_BYTES]
        return len(piece)

    loop.add_reader(reader, read_available)
    try:
        yield writer
    finally:
        os.close(writer)
        remaining = DRAINED_BYTES
        while remaining > 0 and (number := read_available()):
            remaining -= number
        loop.remove_reader(reader)
        os.close(reader)


async def _terminate_group(process: asyncio.subprocess.Process) -> None:
    """Terminate the whole process group: SIGTERM first, then SIGKILL if something is left."""
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal_)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
                while _is_alive(process.pid):  # noqa: ASYNC110 - there is no event for the end of a group
                    await asyncio.sleep(POLL_S)
        if not _is_alive(process.pid):
            return


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the ID now belongs to another user's process
        return False
    return True


def _last_line(output: bytes | bytearray) -> str:
    lines = [line for line in bytes(output).decode("utf-8", "replace").splitlines() if line.strip()]
    return quote(lines[-1].strip(), 300)[1:-1] if lines else "no output"


def command_variables(values: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a command's placeholders as variables: `BOLTSEAL_REBUILD_IMAGE` and so on."""
    return {f"BOLTSEAL_REBUILD_{name.upper()}": value for name, value in values.items()}
