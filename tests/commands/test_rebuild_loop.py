"""Scans and rebuild requests alternate until nothing more is due."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.state import ClientState
from boltseal.commands.rebuild_loop import MAX_ROUNDS, rebuild_outdated
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.freshness import BaseStatus
from boltseal.project.bases.rebuild_journal import RebuildJournal
from tests.project.bases.rebuilds import APP, NODE, OURS, base_report, rebuilder, script

CURRENT = base_report(OURS, NODE, status=BaseStatus.CURRENT)


class Scans:
    """Returns the given reports of successive scans, the last one repeatedly."""

    def __init__(self, *reports: list[BaseReport]) -> None:
        self.reports = list(reports)
        self.again: list[bool] = []
        self.first: list[int] = []

    async def scan(self, again: bool) -> list[BaseReport]:
        self.again.append(again)
        return self.reports[min(len(self.again), len(self.reports)) - 1]


@pytest.fixture
def journal(tmp_path: Path) -> RebuildJournal:
    return RebuildJournal(ClientState(tmp_path / "state"))


async def test_an_image_on_one_that_was_rebuilt_is_rebuilt_in_the_next_round(
    journal: RebuildJournal, tmp_path: Path
) -> None:
    """A scan after a rebuild resolves the bases again, so dependent images are rebuilt in the next round."""
    scans = Scans([base_report(OURS, NODE), base_report(APP, OURS)], [CURRENT, base_report(APP, OURS)], [CURRENT])
    rounds = await rebuild_outdated(
        rebuilder(journal, script(tmp_path, "true")), scans.scan, lambda reports, _: scans.first.append(len(reports))
    )

    assert [str(one.due.image) for one in rounds.results] == [OURS, APP]
    assert scans.again == [False, True, True]
    assert scans.first == [2]
    assert rounds.reports == [CURRENT]


async def test_a_failed_rebuild_causes_no_other_scan(journal: RebuildJournal, tmp_path: Path) -> None:
    """A failed rebuild causes no further scan, since no image can be based on it."""
    scans = Scans([base_report(OURS, NODE)])
    rounds = await rebuild_outdated(rebuilder(journal, script(tmp_path, "false")), scans.scan, lambda _, __: None)

    assert [str(one.outcome) for one in rounds.results] == ["failed"]
    assert scans.again == [False]


async def test_a_base_that_moves_in_every_round_ends_the_loop(journal: RebuildJournal, tmp_path: Path) -> None:
    """A base that moves in every round ends the loop after a limit."""
    scans = Scans(*([base_report(OURS, NODE, f"new {number}")] for number in range(MAX_ROUNDS + 5)))
    rounds = await rebuild_outdated(rebuilder(journal, script(tmp_path, "true")), scans.scan, lambda _, __: None)

    assert len(rounds.results) == MAX_ROUNDS


async def test_another_process_that_rebuilds_ends_the_loop(journal: RebuildJournal, tmp_path: Path) -> None:
    """If another process rebuilds, the loop ends, and the result has the scan and the reason."""
    scans = Scans([base_report(OURS, NODE)])
    with journal.state.alone("rebuilding"):
        rounds = await rebuild_outdated(rebuilder(journal, script(tmp_path, "true")), scans.scan, lambda _, __: None)

    assert (len(rounds.reports), rounds.results) == (1, [])
    assert rounds.elsewhere is not None
