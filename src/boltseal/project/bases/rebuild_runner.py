"""Runs what an `[[on_outdated]]` says: a command, or a webhook. Bounded in time and in what it may say back.

A command has ended when its own process has, whatever it leaves running behind it: that is ended too, as far as it stayed
in the command's process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import httpx2

from boltseal import __version__
from boltseal.errors import quote

KEPT_BYTES: Final = 2000
DRAINED_BYTES: Final = 1024 * 1024
"""How much is still read of what a command said before it ended; more is there only of what it left behind."""
END_S: Final = 5.0
LOOK_S: Final = 0.05
CLOUD_EVENT: Final = "application/cloudevents+json; charset=utf-8"


class RunResult(NamedTuple):
    """How a try ended, in our words (`exit code 4`), and the last line that it said itself, which may hold anything."""

    well: bool
    how: str
    said: str = ""

    @property
    def told(self) -> str:
        """Both, on one line."""
        return "; ".join(part for part in (self.how, self.said) if part)


async def run_command(words: Sequence[str], event: bytes, timeout_s: float) -> RunResult:
    """Run a command with the event on its standard input. What it started and left behind is ended with it."""
    said = bytearray()
    with (
        tempfile.TemporaryFile() as stdin,  # not a pipe: whoever does not read it must not keep us waiting
        _listening(said) as stdout,
    ):
        stdin.write(event)
        stdin.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=stdin, stdout=stdout, stderr=asyncio.subprocess.STDOUT, start_new_session=True
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return RunResult(False, f"{quote(words[0])} can't be run: {reason}")
        code = None
        try:
            async with asyncio.timeout(timeout_s):
                code = await process.wait()
        except TimeoutError:
            pass
        finally:
            await _end(process)
    if code is None:
        return RunResult(False, f"it took longer than {timeout_s:g} s and was ended", _last(said))
    if code == 0:
        return RunResult(True, "", _last(said))
    return RunResult(False, f"exit code {code}" if code > 0 else f"signal {-code}", _last(said))


async def post_webhook(url: str, event: bytes, timeout_s: float, token: str | None) -> RunResult:
    """Send the event. Only a 2xx is well; a redirect is not followed: it would take the token along."""
    headers = {"content-type": CLOUD_EVENT, "user-agent": f"boltseal/{__version__}"}
    by_tls = url.lower().startswith("https:")  # the others are on this machine: no proxy gets to see them
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
        return RunResult(False, f"it did not answer: {type(error).__name__}")


@contextmanager
def _listening(said: bytearray) -> Iterator[int]:
    """A pipe to write to; the last of what is written there is kept.

    No pipe of asyncio's: with those a process has ended only when all that it left behind has closed them.
    """
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def hear() -> int:
        try:
            piece = os.read(reader, 64 * 1024)
        except BlockingIOError:
            return 0
        if not piece:
            loop.remove_reader(reader)
        said.extend(piece)
        del said[:-KEPT_BYTES]
        return len(piece)

    loop.add_reader(reader, hear)
    try:
        yield writer
    finally:
        os.close(writer)
        left = DRAINED_BYTES
        while left > 0 and (number := hear()):
            left -= number
        loop.remove_reader(reader)
        os.close(reader)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End its whole group: first asked, then, where something is left of it, made to."""
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal_)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
                while _left(process.pid):  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(LOOK_S)
        if not _left(process.pid):
            return


def _left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's by now: nothing that we may end
        return False
    return True


def _last(said: bytes | bytearray) -> str:
    lines = [line for line in bytes(said).decode("utf-8", "replace").splitlines() if line.strip()]
    return quote(lines[-1].strip(), 300)[1:-1] if lines else "it said nothing"


def command_values(image: str, digest: str, base: str, base_digest: str) -> Mapping[str, str]:
    """What the places in a command are filled with."""
    return {"image": image, "digest": digest, "base": base, "base_digest": base_digest}
