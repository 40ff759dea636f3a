"""Processes with an overlayfs root are found by a mount table, whose paths may have any character."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def process(proc: Path, pid: int, *, started: int, own_id: int, name: str = "sleep") -> None:
    """Add a process whose root is the overlay with the upper folder /box."""
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "mountinfo").write_text("10 1 0:30 / / rw - overlay overlay rw,upperdir=/box\n")
    (proc / str(pid) / "status").write_text(f"Name:\t{name}\nNSpid:\t{pid}\t{own_id}\nVmPeak:\t1 kB\n")
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S 1 {' '.join('0' * 17)} {started} 0 0\n")


@pytest.mark.parametrize(("own_id", "started", "first"), [(1, 9, 900), (2, 5, 900), (2, 9, 7)])
def test_the_first_process_of_a_container_is_found(tmp_path: Path, own_id: int, started: int, first: int) -> None:
    """The first process of a PID namespace is a container's first; without one it is the one that was started first."""
    process(tmp_path, 7, started=7, own_id=3, name="a) b (c")
    process(tmp_path, 900, started=started, own_id=own_id)

    assert [each.pid for each in running_roots(tmp_path)] == [first]
