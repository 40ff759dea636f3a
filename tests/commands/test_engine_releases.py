"""Releases that earlier versions recorded are copied to the folder of their engine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from boltseal.commands.engine_releases import take_over_earlier
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents, format_release
from tests.deploy.samples import release

TEXT = b'{"name": "shop", "services": {"app": {"image": "x"}, "db": {"image": "y"}}}'
ADDRESS = "unix:///run/docker.sock"


def earlier(state: Path, made: Release) -> None:
    """Write a release as earlier versions did."""
    place = state / f"releases/shop/{made.number}"
    (place / "files").mkdir(parents=True)
    (place / "files/0").write_bytes(b"services:\n")
    (place / "compose.json").write_bytes(TEXT)
    (place / "environment.json").write_bytes(b'{"TOKEN": "x"}')
    (place / "release.json").write_bytes(format_release(msgspec.structs.replace(made, files={"compose.yaml": "0"})))


def at(number: int, engine: str) -> Release:
    """Return a release of an engine."""
    return msgspec.structs.replace(release(number), engine=engine)


def test_releases_of_earlier_versions_are_copied_with_their_key(tmp_path: Path) -> None:
    """The releases of this engine's address, and those without one, are copied with contents and key; others are not."""
    state, root = tmp_path / "state", tmp_path / "engines/docker-1"
    for made in (at(1, ""), at(2, ADDRESS), at(3, "ssh://web2")):
        earlier(state, made)
    key = ReleaseFolder(state, "shop").key()
    folder = ReleaseFolder(root, "shop", address=ADDRESS)
    take_over_earlier(state, ADDRESS, folder)

    assert [each.number for each in folder.all()] == [1, 2]
    assert folder.contents(2) == ReleaseContents(TEXT, b'{"TOKEN": "x"}', {"compose.yaml": b"services:\n"})
    assert folder.key() == key
    assert (state / "releases/shop/2/release.json").exists()


def test_releases_are_copied_only_for_the_first_time(tmp_path: Path) -> None:
    """A second copy changes nothing, also where another administrator's release had the number; that release keeps it."""
    state, root = tmp_path / "state", tmp_path / "engines/docker-1"
    earlier(state, at(1, ADDRESS))
    folder = ReleaseFolder(root, "shop", address=ADDRESS)
    folder.begin(msgspec.structs.replace(release(1), who="bob@laptop", started_us=9), ReleaseContents(TEXT))
    take_over_earlier(state, ADDRESS, folder)
    first = folder.all()
    take_over_earlier(state, ADDRESS, folder)

    assert [(each.number, each.who) for each in first] == [(1, "bob@laptop"), (2, "ann@host")]
    assert folder.all() == first
