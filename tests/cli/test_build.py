"""`boltseal build` refuses invalid arguments before it calls a builder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import call

TO = ("--repository", "localhost:5000/shop/app")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no repository to push to"),
        (("--repository", "localhost:5000/shop/app:1.0.0"), "expected a repository"),
        ((*TO, "--dockerfile", "none"), "no such file or folder; check the path"),
        ((*TO, "--build-arg", "X"), "expected NAME=VALUE"),
        ((*TO, "--target", "nothing"), "has no stage"),
    ],
)
def test_each_usage_error_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Each usage error is one line with exit code 2."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    result = call("build", tmp_path, *arguments)

    assert result.code == 2
    assert words in result.err
