"""Old releases are removed completely, also if the removal is killed in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from boltseal.client.state import ClientState
from boltseal.deploy.release_cleanup import ReleaseCleanup
from boltseal.deploy.release_exchange import files_in_volume, outdated_files, releases_in_volume
from boltseal.deploy.release_file import StoredRelease
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseContents, ReleasedService
from boltseal.engines.api import connected
from boltseal.host.engine_images import EngineHost
from boltseal.host.image_archive import ImageArchive
from boltseal.host.kept_images import KeptImages
from tests.deploy.cleanup_kills import layout
from tests.deploy.samples import release
from tests.fakes.engine import FakeEngine, Wrong


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


@pytest.mark.parametrize(
    "mark", ["", "boltseal.invalid/changed:boltseal-keep-0123456789ab"], ids=["unmarked", "marked"]
)
async def test_a_changed_image_that_cant_be_saved_does_not_keep_others_from_the_archive(
    tmp_path: Path, mark: str
) -> None:
    """Images after one that is marked as changed are archived, though the engine can't save that one; other failures are printed."""
    fake, name, lines = FakeEngine(saved=layout("good")), "localhost:5000/shop/app", list[str]()
    keep = f"{name}:boltseal-keep-0123456789ab"
    images = [fake.image("changed", keep, *filter(None, [mark])), fake.image("good", f"{name}:2")]
    fake.wrong[f"images/{images[0]}/get"] = Wrong(500, b'{"message": "file integrity checksum failed"}')
    (tmp_path / "engine").mkdir()
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        host = await EngineHost.of(engine, KeptImages(ClientState(tmp_path / "client")), lambda: 1)
        releases, archive = ReleaseFolder(tmp_path / "engine", "shop"), ImageArchive(tmp_path / "engine")
        with releases.deploying():
            for number, image in enumerate(images, 1):
                service = ReleasedService(name="app", image=f"{name}:{number}", image_id=image)
                releases.begin(msgspec.structs.replace(release(number), services=(service,)), ReleaseContents(b"{}"))
            await ReleaseCleanup(releases, host, archive, lines.append).run(2)

        assert {str(each) for each in archive.ids()} == ({images[1]} if mark else set())
    assert any("checksum failed" in line for line in lines) != bool(mark)
