"""Without the rights to read, the result is "could not check" with the missing right: never clean, never a difference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.scrub.stores import Store
from tests.programs import program
from tests.real.tools import CommandResult

pytestmark = pytest.mark.real


def scrub_as(*how: str, root: Path) -> CommandResult:
    """Run the command with reduced capabilities."""
    code = "from boltseal.cli.root import run; run()"
    argv = [program("setpriv"), *how, sys.executable, "-c", code, "scrub", "--root", str(root)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=False)
    return CommandResult(done.returncode == 3, done.stdout + done.stderr)


def test_without_the_right_to_see_overlayfs_marks_nothing_is_clean(store: Store) -> None:
    """Without the right to see overlayfs marks, which the kernel then omits silently, no result is "clean"."""
    done = scrub_as("--bounding-set=-sys_admin", root=store.root)

    assert done.ok, done.text
    assert "CAP_SYS_ADMIN" in done.text
    assert "DIFFERS" not in done.text


def test_without_the_right_to_read_files_nothing_is_clean(store: Store) -> None:
    """Without CAP_DAC_READ_SEARCH, files of another user are unreadable and no result is "clean"."""
    subprocess.run(["chown", "-R", "12345:12345", store.root], check=True)
    subprocess.run(["chmod", "-R", "go-rwx", store.root], check=True)
    done = scrub_as("--bounding-set=-dac_override,-dac_read_search", root=store.root)

    assert done.ok, done.text
    assert "CAP_DAC_READ_SEARCH" in done.text
