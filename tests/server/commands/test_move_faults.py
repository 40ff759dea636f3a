"""Each write of a move and of a restore fails twice: not done, and done with the answer lost. Repeating the command ends with a whole registry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from boltseal.errors import BoltsealError, Unavailable
from boltseal.server.commands.backups import make_backup, restore_backup
from boltseal.server.commands.move_data import move_data
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.move_fence import read_fence
from boltseal.server.store_factory import examine_store
from tests.cli import program
from tests.object_faults import Fault, FaultyServer, faulty, no_fault
from tests.server.commands import moving
from tests.server.commands.moving import NOW_US, push_all, quiet, through
from tests.server.storage.breaking_proxy import BreakingProxy, breaking_proxy
from tests.small_disk import small_disk
from tests.storage_servers import ObjectServer, Postgres

pytestmark = [pytest.mark.slow, pytest.mark.files_only("moves a registry of SQLite and files")]
COMMIT = b"COMMIT\0"
WRITES = ("PUT", "POST", "DELETE")


def kind_of(method: str, path: str) -> str:
    """Return what a request writes: the method and the first folder below the prefix."""
    folders = path.partition("?")[0].split("/")[3:]
    return f"{method} {folders[0] if folders else ''}"


def break_each_commit(proxy: BreakingProxy, run: Callable[[], object]) -> list[str]:
    """Run a command again and again; each time another COMMIT is broken, before and after it is done. Return the errors."""
    proxy.statement, errors, number = COMMIT, list[str](), 0
    while True:
        for when in ("before", "after"):
            proxy.breaks, proxy.passes = when, number
            try:
                run()
            except Unavailable as error:
                errors.append(error.message)
            if proxy.breaks is not None:
                proxy.breaks = None
                return errors
        number += 1


def fail_each_kind(proxy: FaultyServer, run: Callable[[], object]) -> dict[str, list[str]]:
    """Run a command again and again; each time all writes of the first kind that never failed fail. Return the errors by kind."""
    errors = dict[str, list[str]]()
    while True:
        failing = FailingKind(frozenset(errors))
        for failing.fault in (Fault.REFUSED, Fault.LOST):
            proxy.plan = failing.plan
            try:
                run()
            except BoltsealError as error:
                errors.setdefault(failing.kind or "nothing failed", []).append(error.message)
        proxy.plan = no_fault
        if failing.kind is None:
            return errors
        errors.setdefault(failing.kind, [])


class FailingKind:
    """Fails all writes of one kind: the first one that is not in `failed`."""

    def __init__(self, failed: frozenset[str]) -> None:
        self._failed = failed
        self.kind: str | None = None
        self.fault = Fault.REFUSED

    def plan(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request."""
        kind = kind_of(method, path)
        if method not in WRITES or kind in self._failed:
            return None
        self.kind = self.kind or kind
        return self.fault if kind == self.kind else None


def test_a_move_goes_on_after_each_lost_commit(source: Path, target: Settings, postgres_server: Postgres) -> None:
    """Wherever PostgreSQL's connection breaks, the move has not happened or is whole, and the next run goes on."""
    with breaking_proxy(postgres_server.port) as proxy:
        settings = through(target, database=proxy.port)
        errors = break_each_commit(proxy, lambda: move_data(source, settings, quiet))
        result = move_data(source, settings, quiet)

    assert len(errors) >= 6
    assert result.status == "moved"
    assert not examine_store(target, quiet).findings


def test_a_restore_goes_on_after_each_lost_commit(
    place: Callable[[str], Settings], tmp_path: Path, postgres_server: Postgres
) -> None:
    """Wherever PostgreSQL's connection breaks, nothing or everything is restored, and the next run goes on."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    with breaking_proxy(postgres_server.port) as proxy:
        settings = through(new, database=proxy.port)
        errors = break_each_commit(proxy, lambda: restore_backup(settings, tmp_path / "copy", quiet))
        restored = restore_backup(settings, tmp_path / "copy", quiet)

    assert len(errors) >= 6
    assert not restored.examined.findings


def test_a_move_goes_on_after_each_failed_write_to_the_s3_server(
    source: Path, target: Settings, object_server: ObjectServer
) -> None:
    """All writes of a kind fail, not done or without an answer: the command says so in one line, and the next run goes on."""
    with faulty(object_server) as proxy:
        settings = through(target, objects=proxy.endpoint)
        errors = fail_each_kind(proxy, lambda: move_data(source, settings, quiet))
    moved = move_data(source, target, quiet)

    assert errors.keys() >= {"PUT owner", "PUT owner.probe", "PUT blobs", "PUT index", "PUT manifests"}
    assert "nothing failed" not in errors
    assert all(len(messages) == 2 for messages in errors.values())
    assert not any("\n" in message for messages in errors.values() for message in messages)
    assert moved.status == "moved"
    assert not examine_store(target, quiet).findings


def test_a_restore_goes_on_after_each_failed_write_to_the_s3_server(
    place: Callable[[str], Settings], tmp_path: Path, object_server: ObjectServer
) -> None:
    """All writes of a kind fail, not done or without an answer: nothing counts, and the next run goes on."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    with faulty(object_server) as proxy:
        settings = through(new, objects=proxy.endpoint)
        errors = fail_each_kind(proxy, lambda: restore_backup(settings, tmp_path / "copy", quiet))
    restored = restore_backup(new, tmp_path / "copy", quiet)

    assert errors.keys() >= {"PUT owner", "PUT owner.probe", "PUT blobs", "PUT index", "PUT manifests"}
    assert "nothing failed" not in errors
    assert not restored.examined.findings


def test_a_single_lost_answer_about_the_owner_is_not_another_registry(
    source: Path, target: Settings, object_server: ObjectServer
) -> None:
    """The client repeats a conditional write whose answer was lost, and meets its own effect: the move goes on."""
    lost = iter([Fault.LOST])
    with faulty(object_server) as proxy:
        proxy.plan = lambda method, path: next(lost, None) if kind_of(method, path) == "PUT owner" else None
        moved = move_data(source, through(target, objects=proxy.endpoint), quiet)

    assert next(lost, None) is None
    assert moved.status == "moved"


def test_a_full_disk_stops_a_move_and_a_backup_with_one_line(source: Path, target: Settings, tmp_path: Path) -> None:
    """No space for the keys of the new server, and none for a backup: exit code 3, nothing counts, and the command goes on later."""
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        new = target.model_copy(update={"server": target.server.model_copy(update={"data": disk / "new"})})
        config = moving.config(tmp_path, new)
        fill(disk)
        move = program.call("admin", "migrate", "--from", source, "--config", config)
        closed = read_fence(source)
        (disk / "filler").unlink()
        moved = program.call("admin", "migrate", "--from", source, "--config", config)
        fill(disk)
        backup = program.call("admin", "backup", disk / "copy", "--config", config, "--with-objects")
        (disk / "filler").unlink()
        backed_up = program.call("admin", "backup", disk / "copy", "--config", config, "--with-objects")

    assert (move.code, len(move.err.splitlines())) == (3, 1)
    assert "o space left" in move.err
    assert closed is not None
    assert moved.code == 0
    assert (backup.code, len(backup.err.splitlines())) == (3, 1)
    assert "o space left" in backup.err
    assert backed_up.code == 0


def fill(disk: Path) -> None:
    """Fill a small file system."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
