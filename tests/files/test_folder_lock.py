"""One process at a time replaces a folder's files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.files.folder_lock import folder_locked

HOLD = """
import sys
from pathlib import Path
from boltseal.files.folder_lock import folder_locked

with folder_locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_waits_for_another_until_it_ends(tmp_path: Path) -> None:
    """A lock that another process holds is an error after the wait that names the folder, and is free once that process is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(TimeoutError, match=rf"another process has locked the folder {tmp_path} for 0\.1 s"),
            folder_locked(tmp_path, 0.1),
        ):
            pass
        holder.kill()
        holder.wait()
        with folder_locked(tmp_path, 0.1):
            held = True

    assert held
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_not_locked(tmp_path: Path) -> None:
    """The lock of one folder does not exclude replacements in another one."""
    (tmp_path / "other").mkdir()

    with folder_locked(tmp_path, 0.1), folder_locked(tmp_path / "other", 0.1):
        pass
