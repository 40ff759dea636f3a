"""Use cases of a project without a command line: results are values, and nothing is printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.commands.client_context import ClientContext
from boltseal.commands.emit_lock import Emit, emit_lock
from boltseal.commands.lock import LockRequest, lock_project
from boltseal.commands.outcome import Outcome
from boltseal.commands.pin import PinRequest, pin_project
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.verify import VerifyRequest, verify_project
from boltseal.config import ClientPaths
from boltseal.lockfile.document import Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.lock_file import LockFile, read_lock, write_lock
from boltseal.project.replace_files import FileChanged
from tests.ports import free_port

APP = Reference.parse("registry.invalid/shop/app:1.4.2")
DIGEST = Digest.parse(f"sha256:{'1' * 64}")
NOW_US = 1_795_000_000_000_000
COMPOSE = "services:\n  web:\n    image: registry.invalid/shop/app:1.4.2\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A locked project of one image, whose registry does not exist."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "compose.yaml").write_text(COMPOSE)
    write_lock(LockFile(folder), Lock((LockedImage(APP, DIGEST, NOW_US),)))
    return folder


@pytest.fixture
def options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[RegistryOptions]:
    """Options of a user without settings files; the test prints nothing."""
    client = ClientContext(
        ClientPaths((), "", tmp_path / "none.toml"), tmp_path / "state", lambda: NOW_US, lambda _: None
    )
    yield RegistryOptions(client)

    assert capsys.readouterr() == ("", "")


def test_a_pin_shows_its_edits_and_writes_them_on_request(project: Path, options: RegistryOptions) -> None:
    """`pin` returns its edits by the lock, without a registry, and writes them on request."""
    shown = pin_project(PinRequest(project), options)
    before = (project / "compose.yaml").read_text()
    written = pin_project(PinRequest(project, write=True), options)

    assert (shown.outcome, shown.refused, before) == (Outcome.HOLDS, "", COMPOSE)
    assert [change.path for change in shown.changes] == [change.path for change in written.changes] == ["compose.yaml"]
    assert (project / "compose.yaml").read_text() == COMPOSE.replace("1.4.2", f"1.4.2@{DIGEST}")


def test_a_lock_does_not_undo_what_pin_recorded_meanwhile(tmp_path: Path, options: RegistryOptions) -> None:
    """If `pin` writes while `lock` waits for registries, `lock` is refused, and the records of the pins stay."""
    down = f"localhost:{free_port()}/shop/app:1.4.2"
    (tmp_path / "compose.yaml").write_text(COMPOSE.replace(str(APP), down))
    write_lock(LockFile(tmp_path), Lock((LockedImage(Reference.parse(down), DIGEST, NOW_US),)))

    def pin_meanwhile(*_: object) -> None:
        pin_project(PinRequest(tmp_path, write=True), options)

    with pytest.raises(FileChanged, match=r"changed while boltseal worked on it; run the command again"):
        lock_project(LockRequest(tmp_path, update=True), options, pin_meanwhile)

    lock = read_lock(tmp_path)
    assert lock is not None
    assert len(lock.pins) == 1


def test_verify_offline_compares_the_files_with_the_lock(project: Path, options: RegistryOptions) -> None:
    """Offline, a reference that the lock lacks is a difference."""
    same = verify_project(VerifyRequest(project, offline=True), options)
    (project / "compose.yaml").write_text(COMPOSE.replace("1.4.2", "2.0.0"))
    other = verify_project(VerifyRequest(project, offline=True), options)

    assert same.outcome is Outcome.HOLDS
    assert other.outcome is Outcome.DIFFERS
    assert [result.status for result in other.results] == ["not-in-the-lock"]


def test_an_override_has_every_locked_digest_or_is_not_written(project: Path, options: RegistryOptions) -> None:
    """An override file that would lack a digest is not written; the report lists what it lacks."""
    whole = emit_lock(project, (), Emit.COMPOSE_OVERRIDE)
    (project / "compose.yaml").write_text(COMPOSE + "  new:\n    image: registry.invalid/shop/app:2.0.0\n")
    partial = emit_lock(project, (), Emit.COMPOSE_OVERRIDE)

    assert whole.text is not None
    assert str(DIGEST) in whole.text
    assert (partial.outcome, partial.text) == (Outcome.DIFFERS, None)
    assert [row.status for row in partial.rows] == ["not-locked"]


def test_a_registry_that_the_user_has_not_allowed_leaves_the_locked_digest(
    project: Path, options: RegistryOptions
) -> None:
    """A project's file can't make lock contact a host that the user has not allowed; the entry stays."""
    report = lock_project(LockRequest(project, update=True), options)

    locked = read_lock(project)

    assert (report.outcome, report.complete) == (Outcome.UNKNOWN, False)
    assert "registry.invalid is not contacted" in report.unresolved[0].reason
    assert locked is not None
    assert [(image.reference, image.digest) for image in locked.images] == [(APP, DIGEST)]
