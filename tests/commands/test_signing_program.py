"""The user's command that signs: how it is split into words, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.commands.signing_program import SigningFailed, run_signing_program, signing_words

IMAGE = "localhost:5000/shop/app@sha256:00"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cosign sign --key 'my key' {image}", ["cosign", "sign", "--key", "my key", IMAGE]),
        ("cosign sign --key a", ["cosign", "sign", "--key", "a", IMAGE]),
        ("sign --of={image} --log $HOME;id", ["sign", f"--of={IMAGE}", "--log", "$HOME;id"]),
    ],
)
def test_a_command_is_split_and_no_shell_reads_it(command: str, words: list[str]) -> None:
    """The image replaces {image}, and is added at the end where that is missing; variables and semicolons stay text."""
    assert signing_words(command, IMAGE) == words


async def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    """After its time it is killed, and the error says so."""
    with (tmp_path / "log").open("w") as log, pytest.raises(SigningFailed, match=r'"sleep" did not end within 0 s'):
        await run_signing_program(["sleep", "600"], log, timeout_s=0.2)


async def test_what_a_command_prints_goes_to_the_log(tmp_path: Path) -> None:
    """Standard output and standard error of the command are shown, and its exit code decides."""
    with (tmp_path / "log").open("w") as log:
        await run_signing_program(["sh", "-c", "echo out; echo err >&2"], log)
        with pytest.raises(SigningFailed, match="failed with exit code 7"):
            await run_signing_program(["sh", "-c", "exit 7"], log)

    assert (tmp_path / "log").read_text() == "out\nerr\n"
