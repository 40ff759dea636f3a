"""Comparing a process's view with its layers, where both and /proc are folders, without an engine."""

from __future__ import annotations

import os
import resource
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.engines.overlay_processes import ProcessRoot
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.plans import ContainerPlan
from boltseal.host.scrub.process_view import compare_process_view

PID = 77
DEPTH = 1200


@pytest.fixture
def plan(tmp_path: Path) -> ContainerPlan:
    """A container on one layer with a file that its process sees unchanged."""
    for where in ("store/own", "store/layer/etc", f"proc/{PID}/root/etc"):
        (tmp_path / where).mkdir(parents=True)
    for where in ("store/layer", f"proc/{PID}/root"):
        (tmp_path / where / "etc/passwd").write_bytes(b"root")
        os.utime(tmp_path / where / "etc/passwd", (1, 1))
    (tmp_path / f"proc/{PID}/mountinfo").write_text("1 0 0:1 / / rw - overlay overlay rw,lowerdir=x,upperdir=own\n")
    return ContainerPlan("docker", tmp_path / "store", "box", "box", None, b"own", (b"layer",))


def seen(plan: ContainerPlan, *mounts: bytes) -> tuple[set[str], list[str]]:
    running = ProcessRoot(PID, b"own", frozenset(mounts), plan.root.parent / "proc")
    compared = compare_process_view(plan, running, CheckMode(), lambda _: None)
    found, unknown = compared.differences, compared.unknown
    return {each.path for each in found}, unknown


def root_of(plan: ContainerPlan) -> Path:
    return plan.root.parent / f"proc/{PID}/root"


def test_a_process_that_sees_its_layers_is_clean(plan: ContainerPlan) -> None:
    """A process that sees its layers unchanged has no difference and nothing unknown."""
    assert seen(plan) == (set(), [])


def test_other_content_of_the_same_size_and_time_is_found(plan: ContainerPlan) -> None:
    """Content of equal size and time that differs is found, because the files of both sides are read."""
    (root_of(plan) / "etc/passwd").write_bytes(b"evil")
    os.utime(root_of(plan) / "etc/passwd", (1, 1))

    assert seen(plan)[0] == {"etc/passwd"}


def test_a_mount_over_a_file_is_no_difference(plan: ContainerPlan) -> None:
    """A mount over a file, which the kernel lists, is no difference."""
    (root_of(plan) / "etc/passwd").write_bytes(b"mounted")

    assert seen(plan, b"etc/passwd") == (set(), [])


def test_folders_deeper_than_the_recursion_limit_are_compared(plan: ContainerPlan) -> None:
    """Folders deeper than the recursion limit, which a container can create, are compared."""
    for top in (plan.root / "own", root_of(plan)):
        at = os.open(top, os.O_RDONLY)
        for _ in range(DEPTH):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        if top != plan.root / "own":
            os.close(os.open("evil", os.O_CREAT, dir_fd=at))
        os.close(at)

    (found,) = seen(plan)[0]
    subprocess.run(["rm", "-rf", plan.root / "own", root_of(plan)], check=True)  # Python could not

    assert found.startswith("d/d/d")


def test_very_many_layers_stay_within_the_limit_of_open_files(plan: ContainerPlan) -> None:
    """Very many layers stay within the limit of open files, although each needs open folders."""
    layers = [b"layer", *(b"layer%d" % number for number in range(60))]
    for layer in layers[1:]:
        for folder in range(30):
            for where in (plan.root / layer.decode(), root_of(plan)):
                (where / f"d{folder}/e").mkdir(parents=True, exist_ok=True)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        found = seen(replace(plan, lowers=tuple(layers)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert found == (set(), [])


def test_a_reused_process_number_is_no_difference(plan: ContainerPlan) -> None:
    """A process number that was reused by another process is no difference."""
    (root_of(plan) / "etc/passwd").write_bytes(b"evil")
    (plan.root.parent / f"proc/{PID}/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\n")

    paths, unknown = seen(plan)

    assert paths == set()
    assert "its number was reused" in unknown[0]


def test_a_process_that_has_ended_could_not_be_checked(plan: ContainerPlan) -> None:
    """A process that has ended could not be checked, and is no difference."""
    root_of(plan).rename(plan.root.parent / "gone")

    paths, unknown = seen(plan)

    assert paths == set()
    assert f"process {PID}" in unknown[0]
