"""Temporary folders that the next run removes if the process is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from boltseal.files.scratch_folder import scratch_folder

HOLD = """
import sys
from pathlib import Path
from boltseal.files.scratch_folder import scratch_folder
with scratch_folder("kept", Path(sys.argv[1])) as folder:
    (folder / "large").write_bytes(b"large")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_folder_and_its_files_are_removed_at_the_end(tmp_path: Path) -> None:
    """Nothing remains of a folder after its context, also after an exception."""
    try:
        with scratch_folder("kept", tmp_path) as folder:
            (folder / "file").write_bytes(b"x")
            raise ValueError
    except ValueError:
        pass

    assert [*tmp_path.iterdir()] == []


def test_a_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    """The folder of a running process stays when another one begins; that of a killed process is removed."""
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        left = Path(running.stdout.readline().strip())
        with scratch_folder("kept", tmp_path):
            beside = (left / "large").exists()
        running.kill()
    after_the_kill = left.exists()
    with scratch_folder("kept", tmp_path) as folder:
        names = [*tmp_path.iterdir()]

    assert (beside, after_the_kill) == (True, True)
    assert names == [folder]


def test_a_link_and_other_names_are_left_alone(tmp_path: Path) -> None:
    """A symbolic link with the name of such a folder is not followed, and folders with other names stay."""
    target = tmp_path / "other"
    target.mkdir()
    (target / "file").write_bytes(b"x")
    (tmp_path / "kept-link").symlink_to(target)
    with scratch_folder("kept", tmp_path):
        pass

    assert (target / "file").read_bytes() == b"x"
    assert (tmp_path / "kept-link").is_symlink()
