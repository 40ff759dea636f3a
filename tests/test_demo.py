"""`make demo` as a person runs it: it tells the truth, and says so when the truth is another."""

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


def test_the_demo_shows_a_tag_that_holds() -> None:
    """It ends well, and shows the refusal and the digest."""
    told = demo()

    assert told.returncode == 0, told.stderr
    assert "refused  denied: tag 1.4.2 of shop/app is sealed at sha256:" in told.stdout
    assert "/shop/app:1.4.2@sha256:" in told.stdout.splitlines()[-1]


def test_the_demo_fails_where_a_tag_does_not_hold(tmp_path: Path) -> None:
    """With rules that let every tag float the second push succeeds, and the demo says that this was not the story."""
    config = tmp_path / "floating.toml"
    config.write_text('[[rule]]\nmode = "floating"\n')

    told = demo(str(config))

    assert told.returncode == 1
    assert "should answer 409, and answered 201" in told.stderr
