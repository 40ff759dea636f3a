"""Old releases are removed completely, also if the removal is killed in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from boltseal.deploy.release_exchange import files_in_volume, outdated_files, releases_in_volume
from boltseal.deploy.release_file import StoredRelease
from boltseal.deploy.releases import ReleaseContents
from tests.deploy.samples import release


def test_a_removal_that_is_killed_anywhere_is_finished_by_the_next_deploy(tmp_path: Path) -> None:
    """Whenever a removal of old releases is killed, the next cleanup leaves what one that was not killed leaves."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.cleanup_kills", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    *after_kills, whole = json.loads(done.stdout)

    assert whole == {
        "releases": list(range(1, 23)),
        "contents": list(range(3, 23)),
        "copies": 20,
        "texts": list(range(3, 23)),
        "held": list(range(3, 23)),
        "archived": True,
        "blobs": 15,
        "other files": ["lock"],
        "other files of the archive": ["blobs", "index.json", "lock", "oci-layout"],
    }
    assert len(after_kills) > 20
    for number, state in enumerate(after_kills, 1):
        assert state == whole, f"killed before change {number}"


def test_the_contents_of_an_old_release_leave_the_engine() -> None:
    """A release without contents replaces both of its files on the engine; what a killed removal left is replaced next time."""
    contents = ReleaseContents(b"{}", b'{"TOKEN": "old"}')
    whole = [StoredRelease(revision=each, release=release(1), contents=contents) for each in (4, 5)]
    bare = StoredRelease(revision=6, release=release(1), contents=None)
    before = files_in_volume(whole[0]) | files_in_volume(whole[1])
    after = before | files_in_volume(bare)
    for name, raw in files_in_volume(bare).items():
        interrupted = before | {name: raw}
        found = releases_in_volume(interrupted, "shop")
        repaired = interrupted | outdated_files(interrupted, found)

        assert found == (bare,)
        assert repaired == after
    assert set(before) == set(after) == {"1.0", "1.1"}
    assert not outdated_files(after, releases_in_volume(after, "shop"))
    assert all(b'contents":null' in raw for raw in after.values())
