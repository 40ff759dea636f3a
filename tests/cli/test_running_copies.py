"""Containers of copies that `pull --replace` made: without the record of a copy, the output does not say that it was built here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.client.state import ClientState
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseContents
from boltseal.engines.address import EngineAddress
from boltseal.host.kept_images import KeptImages, Proof, PullRecord
from boltseal.oci.digest import Digest
from tests.cli.program import call
from tests.deploy.samples import release
from tests.fakes.engine import SNAPSHOTTER, FakeEngine

NAME = "localhost:1/shop/app:1.4.2"
REPOSITORY = NAME.rpartition(":")[0]
ORIGINAL, NEW = Digest.of(b"original"), Digest.of(b"what the engine made up for the copy")
HISTORY = [{"CreatedBy": "boltseal pull --replace"}, {"CreatedBy": "/bin/sh -c #(nop) CMD"}]

pytestmark = pytest.mark.slow


@pytest.fixture
def state() -> Path:
    """The user's state folder."""
    return Path(os.environ["BOLTSEAL_STATE"])


@pytest.fixture(params=["classic", "containerd"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[EngineAddress, Digest]]:
    """The default engine, with a container of a copy; return its address and the copy's ID."""
    fake = FakeEngine()
    containerd = request.param == "containerd"
    if containerd:
        fake.driver_status = SNAPSHOTTER
    copy = fake.image("copy", NAME, pulled=(f"{REPOSITORY}@{NEW}",) if containerd else (), History=HISTORY)
    fake.container("web", NAME, copy, labels={"com.docker.compose.project": "shop"})
    with fake.in_thread(tmp_path) as address:
        monkeypatch.setenv("DOCKER_HOST", str(address))
        monkeypatch.chdir(tmp_path)
        yield address, Digest.parse(copy)


def recorded(state: Path, engine: tuple[EngineAddress, Digest]) -> None:
    """Record of which image the copy is."""
    state.mkdir(parents=True, exist_ok=True)
    address, copy = engine
    KeptImages(ClientState(state)).record_pull(
        address.key, PullRecord(copy, ORIGINAL, REPOSITORY, "", Proof.COPY, 1_000_000)
    )


def test_a_copy_is_shown_with_the_image_that_it_is_of(state: Path, engine: tuple[EngineAddress, Digest]) -> None:
    """`outdated --running` checks the image that a copy is of, and names it; `ps` shows the image's digest."""
    recorded(state, engine)
    [row] = call("outdated", "--running", "--json").json["results"]
    listed = call("ps", "--offline", "--json").json

    assert row["ref"] == f"web: {NAME}, a copy of {REPOSITORY}@{ORIGINAL}"
    assert row["status"] == "cannot tell" or "localhost:1" in row["reason"]  # no registry listens there
    assert (listed["outcome"], [each["ref"] for each in listed["results"]]) == ("holds", [NAME])
    assert str(ORIGINAL) in listed["results"][0]["image"]["digest"]


def test_a_copy_whose_record_another_user_has_is_no_local_build(engine: tuple[EngineAddress, Digest]) -> None:
    """Without a record of a copy, `ps` and `outdated --running` say in one line that its image is not known: exit code 3."""
    outdated, listed = call("outdated", "--running"), call("ps", "--offline")
    envelope = call("ps", "--offline", "--json").json

    assert (outdated.code, listed.code) == (3, 3)
    for text in (outdated.out, listed.err):
        assert "is a copy that `boltseal pull --replace` made for another user" in " ".join(text.split())
    assert "built here" not in outdated.out
    assert f"{NAME}, local" not in listed.out
    assert envelope["outcome"] == "unknown"
    [unknown] = [each for each in envelope["results"] if each["status"] == "unknown"]
    assert unknown["reason"].startswith("web: it is a copy")


def test_a_record_that_can_not_be_read_is_a_result(state: Path, engine: tuple[EngineAddress, Digest]) -> None:
    """If the user's record of copies can't be read, `ps` and `outdated --running` say so in one line: exit code 3."""
    state.mkdir(parents=True, exist_ok=True)
    (state / "kept.db").write_bytes(b"no database" * 100)
    outdated, listed = call("outdated", "--running"), call("ps", "--offline")

    assert (outdated.code, listed.code) == (3, 3)
    assert "kept.db" in outdated.out
    assert len([line for line in listed.err.splitlines() if "kept.db" in line]) == 1


def test_releases_that_can_not_be_read_are_a_result(state: Path, engine: tuple[EngineAddress, Digest]) -> None:
    """If the releases of this machine can't be read, `ps` lists the containers, and says so in one line: exit code 3."""
    recorded(state, engine)
    folder = ReleaseFolder(state, "shop")
    folder.begin(release(1), ReleaseContents(b'{"name": "shop"}'))
    (folder.folder / "2").mkdir()
    (folder.folder / "2" / "release.json").write_text("{}")
    listed, envelope = call("ps", "--offline"), call("ps", "--offline", "--json").json

    assert listed.code == 3
    assert NAME in listed.out
    assert len([line for line in listed.err.splitlines() if str(folder.folder) in line]) == 1
    assert (envelope["outcome"], len(envelope["errors"])) == ("unknown", 1)
