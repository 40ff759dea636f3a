"""Containers whose metadata or processes change while they are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.host.scrub.changing_containers import Processes, check_until_settled
from boltseal.host.scrub.differences import DifferenceKind, difference
from boltseal.host.scrub.plans import ContainerPlan
from boltseal.host.scrub.report import ReportStatus, ScrubReport, status_of

PLAN = ContainerPlan("docker", Path("/store"), "c" * 64, "box", None, b"upper")
FOUND = (difference(DifferenceKind.METADATA, b"", "a layer", "none"),)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A process file system without processes."""
    return tmp_path


def report(container: ContainerPlan, *unknown: str) -> ScrubReport:
    """Return the report of a container; without reasons, what its plan says."""
    differences = container.differences
    reasons = unknown or container.unknown
    status = status_of(len(differences), reasons)
    return ScrubReport(
        "container", "box", status, "docker", "/store", id=container.id, differences=differences, unknown=reasons
    )


class Checks:
    """A check whose containers could not be checked the first `failing` times, each time for another reason."""

    def __init__(self, failing: int) -> None:
        self.plans: list[ContainerPlan] = []
        self._failing = failing

    def __call__(self, containers: Sequence[ContainerPlan], _: Processes) -> list[ScrubReport]:
        self.plans += containers
        fails = len(self.plans) <= self._failing
        return [report(each, *([f"process {len(self.plans)} ended"] if fails else [])) for each in containers]


def test_a_container_whose_process_ended_is_checked_again(proc: Path) -> None:
    """A container that restarts is checked again by its new metadata."""
    check, fresh = Checks(2), replace(PLAN, pid=8)

    (found,) = check_until_settled([PLAN], check, lambda: [fresh], proc)

    assert found.status is ReportStatus.HOLDS
    assert check.plans == [PLAN, fresh, fresh]


def test_a_container_that_never_settles_could_not_be_checked(proc: Path) -> None:
    """A container whose process ends in every round is a doubt, and the last reason is shown."""
    check = Checks(1000)

    (found,) = check_until_settled([PLAN], check, lambda: [PLAN], proc)

    assert (found.status, found.unknown) == (ReportStatus.UNKNOWN, (f"process {len(check.plans)} ended",))


def test_a_container_that_can_not_be_checked_for_one_reason_is_not_read_again_and_again(proc: Path) -> None:
    """A reason that is repeated ends the checks: each one reads the container's files."""
    plans: list[ContainerPlan] = []

    def check(containers: Sequence[ContainerPlan], _: Processes) -> list[ScrubReport]:
        plans.extend(containers)
        return [report(each, "a folder can't be read") for each in containers]

    (found,) = check_until_settled([PLAN], check, lambda: [PLAN], proc)

    assert found.status is ReportStatus.UNKNOWN
    assert len(plans) == 2


def test_differences_of_a_moment_do_not_count(proc: Path) -> None:
    """Differences in the metadata of a container that is changing are compared with the next reading."""
    broken, whole = replace(PLAN, differences=FOUND), replace(PLAN, pid=9)
    readings = iter([[broken], [whole]])

    (found,) = check_until_settled([PLAN], Checks(1), lambda: next(readings), proc)

    assert found.status is ReportStatus.HOLDS


def test_differences_that_stay_count(proc: Path) -> None:
    """Differences that two readings of the metadata have are reported, also if the first check had none."""
    broken = replace(PLAN, differences=FOUND)

    (found,) = check_until_settled([PLAN], Checks(1), lambda: [broken], proc)

    assert (found.status, found.differences) == (ReportStatus.DIFFERS, FOUND)


def test_differences_in_the_files_of_a_container_that_is_gone_count(proc: Path) -> None:
    """What was found in a container's files is not forgotten because the container was removed since."""

    def check(containers: Sequence[ContainerPlan], _: Processes) -> list[ScrubReport]:
        return [replace(report(each), status=ReportStatus.DIFFERS, differences=FOUND) for each in containers]

    (found,) = check_until_settled([PLAN], check, list, proc)

    assert (found.status, found.differences) == (ReportStatus.DIFFERS, FOUND)


def test_two_containers_of_one_id_are_both_reported(proc: Path) -> None:
    """A store that lists one ID twice hides neither of the containers."""
    other = replace(PLAN, upper=b"other", differences=FOUND)

    found = check_until_settled([PLAN, other], Checks(0), list, proc)

    assert [each.status for each in found] == [ReportStatus.HOLDS, ReportStatus.DIFFERS]


def test_a_container_is_not_gone_while_processes_can_not_be_listed(tmp_path: Path) -> None:
    """Without a list of processes, a container that its store no longer lists is a doubt."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/mountinfo").mkdir()  # reading it fails

    (found,) = check_until_settled([PLAN], Checks(1000), list, tmp_path)

    assert found.status is ReportStatus.UNKNOWN


def test_a_container_that_its_store_hides_while_it_runs_is_not_gone(tmp_path: Path) -> None:
    """A container that its store no longer lists is a doubt while a process runs on its layer."""
    (tmp_path / "77").mkdir()
    mount = "30 1 0:50 / / rw - overlay overlay rw,lowerdir=/store/lower,upperdir=/store/upper,workdir=/store/work\n"
    (tmp_path / "77/mountinfo").write_text(mount)

    (found,) = check_until_settled([PLAN], Checks(1000), list, tmp_path)

    assert found.status is ReportStatus.UNKNOWN
