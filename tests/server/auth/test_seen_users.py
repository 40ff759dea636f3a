"""What the workers of one server remember about users, so that removing the last one opens none of them."""

from __future__ import annotations

from pathlib import Path

from boltseal.server.auth.seen_users import SeenUsers
from boltseal.server.storage.metrics import RunFolder


def test_a_user_that_one_worker_saw_counts_in_all(tmp_path: Path) -> None:
    """A worker that has seen no user requires a login because another worker, or the server at its start, has seen one."""
    run = RunFolder.make(tmp_path)
    first, second = SeenUsers(run), SeenUsers(run)
    before = (first.any(), second.any())
    first.note()

    assert before == (False, False)
    assert (first.any(), second.any(), SeenUsers(run).any()) == (True, True, True)


def test_the_next_start_has_seen_none(tmp_path: Path) -> None:
    """The run folder of the next start does not have what the one before remembered."""
    SeenUsers(RunFolder.make(tmp_path)).note()

    assert not SeenUsers(RunFolder.make(tmp_path)).any()


def test_a_worker_that_cannot_save_it_remembers_it_itself(tmp_path: Path) -> None:
    """A run folder that is gone does not stop requests, and the worker that saw the user requires a login."""
    seen = SeenUsers(tmp_path / "gone")
    seen.note()

    assert seen.any()
    assert not SeenUsers(tmp_path / "gone").any()
