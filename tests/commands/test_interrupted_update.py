"""The next command that writes a project undoes a killed update, unless its release is healthy."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.commands.client_context import ClientContext
from boltseal.commands.interrupted_update import undo_interrupted_update
from boltseal.config import ClientPaths
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents, ReleaseEnd, ReleaseKind, ReleaseStep
from boltseal.project.edit_journal import EditJournal
from boltseal.project.edits import FileEdit
from boltseal.project.replace_files import replace_all
from boltseal.project.source_files import SourceFile
from tests.cli import program

BEFORE, AFTER = b"services: {web: {image: 'nginx:1.25'}}\n", b"services: {web: {image: 'nginx:1.26'}}\n"
EDIT = FileEdit(SourceFile.of("compose.yaml", BEFORE), SourceFile.of("compose.yaml", AFTER))
LOCK = b"version = 1\n"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def root(tmp_path: Path, state: Path) -> Path:
    """A project whose update was killed after it edited files."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "compose.yaml").write_bytes(BEFORE)
    (folder / "boltseal.lock").write_bytes(LOCK)
    journal = EditJournal(state, folder)
    with journal.held():
        journal.begin(folder, [EDIT], LOCK, project="shop", engine="", release=0)
        replace_all(folder, [EDIT])
    return folder


def client(state: Path, notices: list[str]) -> ClientContext:
    return ClientContext(ClientPaths((), "", state / "none.toml"), state, lambda: 0, notices.append)


def test_the_edits_are_undone_and_the_user_is_notified(root: Path, state: Path) -> None:
    """The edits of a killed update are undone once, with a notice; the journal is then removed."""
    notices: list[str] = []
    undo_interrupted_update(client(state, notices), root)
    undo_interrupted_update(client(state, notices), root)

    assert (root / "compose.yaml").read_bytes() == BEFORE
    assert notices == [f"boltseal: {root}: restored as before the update that failed: compose.yaml"]


def test_edits_whose_release_is_healthy_stay(root: Path, state: Path) -> None:
    """Edits whose release became healthy before the kill are kept."""
    folder = ReleaseFolder(state, "shop")
    release = Release(
        project="shop",
        number=1,
        kind=ReleaseKind.UPDATE,
        directory=str(root),
        started_us=1,
        who="me",
        step=ReleaseStep.ENDED,
        end=ReleaseEnd.HEALTHY,
        reason="",
        services=(),
    )
    with folder.deploying():
        folder.begin(release, ReleaseContents(b"{}"))
    undo_interrupted_update(client(state, []), root)

    assert (root / "compose.yaml").read_bytes() == AFTER
    assert EditJournal.of_project(state, root) == ()


def test_a_pin_undoes_the_edits_before_it_writes(root: Path) -> None:
    """`pin --write` undoes interrupted edits first; `pin` without --write only reports them."""
    shown = program.call("pin", "--unpin", "--project", root)
    kept = (root / "compose.yaml").read_bytes()
    written = program.call("pin", "--unpin", "--write", "--project", root)

    assert kept == AFTER
    assert "an update runs, or was interrupted" in shown.err
    assert "restored as before the update that failed: compose.yaml" in written.err
    assert (root / "compose.yaml").read_bytes() == BEFORE


def test_no_command_writes_a_project_while_an_update_runs(root: Path, state: Path) -> None:
    """While an update runs, its edits are not treated as interrupted."""
    with EditJournal(state, root).held():
        refused = program.call("pin", "--unpin", "--write", "--project", root)

    assert refused.code == 3
    assert "is being updated by another process" in refused.err
    assert (root / "compose.yaml").read_bytes() == AFTER
