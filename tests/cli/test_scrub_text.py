"""The text that `scrub` prints of names that an attacker chose."""

from __future__ import annotations

import pytest

from boltseal.cli.scrub_text import print_reports
from boltseal.host.scrub.container_changes import ContainerChange
from boltseal.host.scrub.differences import Difference, DifferenceKind
from boltseal.host.scrub.remedies import Remedy, RemedyStep
from boltseal.host.scrub.report import ReportStatus, ScrubReport

HOSTILE = "x\x1b]0;title\x07\x7f\x9b\u202e\u2028\r\udcff"


@pytest.mark.parametrize("what", ["image", "container", "store"])
@pytest.mark.parametrize("status", [each for each in ReportStatus if each is not ReportStatus.UNCHECKED])
def test_names_of_an_attacker_do_not_control_the_terminal(
    capsys: pytest.CaptureFixture[str], what: str, status: ReportStatus
) -> None:
    """No control character and no invisible character of a name, a path or a reason is printed as it is."""
    report = ScrubReport(
        what, HOSTILE, status, "docker", HOSTILE, by=HOSTILE, id=HOSTILE, names=(HOSTILE,),
        differences=(Difference(DifferenceKind.EXTRA, HOSTILE, HOSTILE, HOSTILE, HOSTILE),), count=1, unknown=(HOSTILE,),
        changed=(ContainerChange(HOSTILE, "added"),), notes=(HOSTILE,), unchecked=(HOSTILE,), unchecked_count=1,
        remedy=Remedy(steps=(RemedyStep(HOSTILE, HOSTILE),)),
    )  # fmt: skip

    print_reports([report], quick=False)

    printed = capsys.readouterr().out
    assert "\\x1b]0;title" in printed
    assert all(each.isprintable() for each in printed.replace("\n", ""))


def test_letters_of_all_languages_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters outside ASCII are not escaped."""
    print_reports([ScrubReport("image", "café/日本語:1", ReportStatus.HOLDS, "docker", "/")], quick=False)

    assert "café/日本語:1" in capsys.readouterr().out
