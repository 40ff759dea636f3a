"""Run the user's command that signs an image, such as `cosign sign --key release.key {image}`.

The command comes from the command line only, never from a file of a project. No shell reads it: it is split into words as a
shell does it, and `{image}` in a word becomes the image by its digest.
"""

from __future__ import annotations

import asyncio
import shlex
from asyncio.subprocess import DEVNULL
from collections.abc import Sequence
from typing import IO, Final

from boltseal.errors import Invalid, Unavailable, quote

PLACEHOLDER: Final = "{image}"
TIMEOUT_S: Final = 600.0


class SigningFailed(Unavailable):
    """The user's command failed, can't be run, or did not end in time."""


def signing_words(command: str, image: str) -> list[str]:
    """Return a command's words. `image`: replaces `{image}`; without that it is added at the end. Raises: Invalid."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Invalid(f"--sign {quote(command)} can't be split into words: {error}") from error
    if not words:
        raise Invalid(f"--sign is empty; expected a command, such as 'cosign sign --key release.key {PLACEHOLDER}'")
    if not any(PLACEHOLDER in word for word in words):
        words.append(PLACEHOLDER)
    return [word.replace(PLACEHOLDER, image) for word in words]


async def run_signing_program(words: Sequence[str], output: IO[str], timeout_s: float = TIMEOUT_S) -> None:
    """Run a command and wait for it, at most `timeout_s`; what it prints goes to `output`. Raises: SigningFailed."""
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=DEVNULL, stdout=output, stderr=output)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SigningFailed(f"{quote(words[0])} can't be run: {why}") from error
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
    except TimeoutError as error:
        raise SigningFailed(f"{quote(words[0])} did not end within {timeout_s:.0f} s and was ended") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        how = f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise SigningFailed(f"{quote(' '.join(words), 300)} {how}")
