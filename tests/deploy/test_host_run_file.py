"""The record of a run over several hosts: whole, for its user alone, and for one process at a time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.host_run_file import HostRunFile, HostRunUnreadable, RecordedFiles, RecordedHost, RecordedRun
from boltseal.deploy.release_store import AnotherDeploys, ReleasesUnusable
from boltseal.deploy.releases import ReleaseInvalid

FILES = ProjectFiles(
    Path("/srv/shop"),
    (Path("/srv/shop/compose.yaml"),),
    "shop",
    Path("/srv/shop"),
    ("more",),
    (Path("/srv/shop/a.env"),),
)
RUN = RecordedRun(
    project="shop",
    who="ann@laptop",
    started_us=1,
    hosts=(RecordedHost(host="ssh://web1", mark=4), RecordedHost(host="ssh://web2", mark=0)),
    files=RecordedFiles.of(FILES),
    canary=1,
    canary_s=60.0,
)


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    """A run is read as it was written, until it is removed."""
    file = HostRunFile(tmp_path, "shop")
    with file.running():
        before = file.read()
        file.write(RUN)
        read = HostRunFile(tmp_path, "shop").read()
        other = HostRunFile(tmp_path, "bar").read()
        file.remove()
        file.remove()

    assert (before, read, other, file.read()) == (None, RUN, None, None)
    assert RUN.files is not None
    assert RUN.files.named() == FILES
    assert RUN.command == "deploy"
    assert RUN.host("ssh://web2").mark == 0


def test_a_second_run_of_the_project_is_refused(tmp_path: Path) -> None:
    """While a run goes on, another one of the same project is refused, and one of another project is not."""
    with HostRunFile(tmp_path, "shop").running():
        with HostRunFile(tmp_path, "bar").running():
            pass
        with (
            pytest.raises(AnotherDeploys, match="to several hosts by another process"),
            HostRunFile(tmp_path, "shop").running(),
        ):
            pass


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        msgspec.json.encode(RUN)[:-1],
        msgspec.json.encode({**msgspec.to_builtins(RUN), "format": 2}),
    ],
)
def test_a_malformed_record_is_no_run(tmp_path: Path, raw: bytes) -> None:
    """A record that is cut off, of another format, or no record refuses to continue, with its path."""
    file = HostRunFile(tmp_path, "shop")
    with file.running():
        (tmp_path / "host-runs/shop.json").write_bytes(raw)
        with pytest.raises(HostRunUnreadable, match=r"shop\.json: "):
            file.read()


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """If the state folder is a file, the error names it and the setting for another one."""
    (tmp_path / "host-runs").write_text("")
    with pytest.raises(ReleasesUnusable, match="BOLTSEAL_STATE"), HostRunFile(tmp_path, "shop").running():
        pass


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    """The name of a project can't be a path."""
    with pytest.raises(ReleaseInvalid):
        HostRunFile(tmp_path, "../shop")
