"""Processes with an overlayfs root are found by a mount table, whose paths may have any character."""

from __future__ import annotations

from pathlib import Path

from boltseal.engines.overlay_processes import running_roots


def test_a_carriage_return_in_a_path_ends_no_line_of_the_mount_table(tmp_path: Path) -> None:
    """A carriage return, which the kernel does not escape, is part of a path and does not end a line."""
    lines = (
        b"10 1 0:30 / / rw - overlay overlay rw,upperdir=/store/carriage\rreturn/diff",
        b"11 10 8:1 /clean\rcopy /etc/hosts rw - ext4 /dev/sda rw",
    )
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "mountinfo").write_bytes(b"\n".join(lines) + b"\n")
    (found,) = running_roots(tmp_path)

    assert found.upper == b"/store/carriage\rreturn/diff"
    assert found.mounts == {b"etc/hosts"}
