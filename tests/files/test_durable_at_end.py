"""Many files made durable with one wait, or one by one where the system cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.files import atomic_files
from boltseal.files.atomic_files import durable_at_end, sync_tree


@pytest.mark.parametrize(
    ("release", "reports"),
    [("6.18.44-fc", True), ("5.8.0", True), ("5.7.19-generic", False), ("4.18.0-553.el8", False), ("unknown", False)],
)
def test_syncfs_counts_only_where_it_reports_failed_writes(release: str, reports: bool) -> None:
    """Before Linux 5.8 each file is synced by itself, because `syncfs` hid failed writes."""
    assert atomic_files._reports_errors(release) is reports


def test_what_the_block_wrote_is_there_and_its_errors_pass_through(tmp_path: Path) -> None:
    """The block's own error is raised, not hidden by the sync."""
    with durable_at_end(tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_bytes(b"c")
    with pytest.raises(ZeroDivisionError), durable_at_end(tmp_path):
        _ = 1 // 0
    sync_tree(tmp_path)

    assert (tmp_path / "a" / "b").read_bytes() == b"c"


def test_a_file_that_cannot_be_synced_is_an_error(tmp_path: Path) -> None:
    """A symbolic link is not followed and raises an error, because its target can't be synced."""
    (tmp_path / "link").symlink_to("/etc/hostname")

    with pytest.raises(OSError, match="symbolic links"):
        sync_tree(tmp_path)
