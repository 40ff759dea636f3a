"""`make demo`: it shows a refused push, and fails if the push is not refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/demo.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_demo_shows_a_refused_push() -> None:
    """The demo ends with exit code 0, and shows the refusal and the digest."""
    result = demo()

    assert result.returncode == 0, result.stderr
    assert "refused  denied: tag 1.4.2 of shop/app is sealed at sha256:" in result.stdout
    assert "/shop/app:1.4.2@sha256:" in result.stdout.splitlines()[-1]


def test_the_demo_fails_where_a_tag_moves(tmp_path: Path) -> None:
    """With rules that make every tag mutable the second push succeeds, and the demo fails."""
    config = tmp_path / "floating.toml"
    config.write_text('[[rule]]\nmode = "floating"\n')

    result = demo(str(config))

    assert result.returncode == 1
    assert "should answer 409, and answered 201" in result.stderr
