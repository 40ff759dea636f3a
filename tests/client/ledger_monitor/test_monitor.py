"""A ledger audited from outside: each contradiction is a problem, and "could not check" is not a success."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.client.errors import RemoteDenied
from boltseal.client.ledger_monitor.monitor import SHARES, Monitor, MonitorReport
from boltseal.client.ledger_monitor.progress_file import MemoryUnusable, MonitorMemory
from boltseal.client.ledger_trust import LedgerUnchecked, LedgerWatch, give_key
from boltseal.client.state import ClientState
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import LedgerBroken
from tests.fakes.ledger import A, B, FakeLedger, signing_key

pytestmark = pytest.mark.usefixtures("two_attempts")

HOST = "reg.example:5000"
ADVICE = "do not deploy it, and ask the operator"
Look = Callable[..., object]


@pytest.fixture
def ledger() -> FakeLedger:
    ledger = FakeLedger()
    ledger.push("1.0.0", "1.0.1")
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    return ledger


async def look(ledger: FakeLedger, folder: Path, *, every_tag: bool = False) -> MonitorReport:
    transport = ledger.transport()
    state = ClientState(folder)
    give_key(state, HOST, signing_key().verifier, 1)
    watch = LedgerWatch(state, transport, lambda: 1)
    try:
        return await Monitor(MonitorMemory(folder, HOST), watch, transport, HOST, every_tag=every_tag).look()
    finally:
        await transport.aclose()


@pytest.mark.parametrize("every_tag", [False, True])
@pytest.mark.slow
async def test_a_run_continues_where_the_last_one_ended(ledger: FakeLedger, tmp_path: Path, every_tag: bool) -> None:
    """A run verifies again only the last bundle of the run before."""
    first = await look(ledger, tmp_path, every_tag=every_tag)
    again = await look(ledger, tmp_path, every_tag=every_tag)
    ledger.push(*(f"2.0.{number}" for number in range(600)))
    ledger.add(EntryKind.TAG_DELETED, B, tag="latest")
    ledger.counted.clear()
    more = await look(ledger, tmp_path, every_tag=every_tag)

    assert [(one.read, one.size, one.names) for one in (first, again, more)] == [(5, 5, 3), (0, 5, 3), (601, 606, 603)]
    assert [one.problems + one.unchecked for one in (first, again, more)] == [[]] * 3
    assert more.compared == 602 if every_tag else 100 <= more.compared < 602
    assert ledger.counted["entries"] == 3


async def test_a_problem_is_found_in_every_run(ledger: FakeLedger, tmp_path: Path) -> None:
    """A problem in the ledger is reported by every run, so that a cron job does not succeed later."""
    await look(ledger, tmp_path)
    ledger.add(EntryKind.TAG_MOVED, B, tag="1.0.0")
    found = [(await look(ledger, tmp_path)).problems for _ in range(2)]

    assert found[0] == found[1] == [f"entry 5: the tag is sealed at {A}, and this entry lets it resolve to {B}"]


async def test_a_sealed_tag_stays_sealed_over_runs_and_tombstones(ledger: FakeLedger, tmp_path: Path) -> None:
    """A sealed tag, stored only as a hash, is known as sealed in later runs and after deletion."""
    ledger.add(EntryKind.TAG_DELETED, A, tag="1.0.0")
    await look(ledger, tmp_path)
    ledger.add(EntryKind.TAG_CREATED, B, tag="1.0.0")
    report = await look(ledger, tmp_path)

    assert report.problems == [f"entry 6: the tag is sealed at another digest, and this entry lets it resolve to {B}"]


async def test_a_missing_link_of_a_chain_is_a_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """A chain of entries with a missing link is reported, so no entry can be hidden."""
    await look(ledger, tmp_path)
    ledger.add(EntryKind.TAG_MOVED, A, tag="latest", previous=3)
    report = await look(ledger, tmp_path)

    assert report.problems == ["entry 5: its previous is 3, the last entry of shop/app:latest is 4"]


async def test_unsigned_entries_are_a_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """Entries that do not match the signed root byte for byte are reported."""
    ledger.checkpoint = ledger.note()
    ledger.entries[2] = ledger.entries[2].replace(b'"ci"', b'"me"')
    report = await look(ledger, tmp_path)

    assert report.problems == ["the tree over its 5 entries does not have the signed root"]


@pytest.mark.slow
async def test_a_tag_changed_in_the_database_is_a_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """A tag whose answer differs from the ledger, as after a change in the database, is reported."""
    ledger.tags["shop/app", "1.0.0"] = B
    report = await look(ledger, tmp_path)

    assert report.problems == [
        f"{HOST}/shop/app:1.0.0: the tag resolves to {B}, but its last entry 1 has another digest; {ADVICE}"
    ]


@pytest.mark.slow
async def test_a_tag_without_an_entry_is_a_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """A tag without a ledger entry is reported by a run that compares every tag, or whose share it is in."""
    await look(ledger, tmp_path)
    tags = [f"9.9.{number}" for number in range(100)]
    ledger.tags.update({("shop/app", tag): B for tag in tags})
    some, every = await look(ledger, tmp_path), await look(ledger, tmp_path, every_tag=True)

    assert sorted(every.problems) == sorted(
        f"{HOST}/shop/app:{tag}: the tag resolves to {B}, but the ledger has no entry for it; {ADVICE}" for tag in tags
    )
    assert set(some.problems) < set(every.problems)  # only the tags of this run's share: none, or a few


async def test_unlisted_tags_could_not_be_compared(ledger: FakeLedger, tmp_path: Path) -> None:
    """Tags that the registry does not list, hidden or deleted without an entry, could not be compared."""
    del ledger.tags["shop/app", "1.0.0"]
    report = await look(ledger, tmp_path, every_tag=True)

    assert report.problems == []
    assert "lists 2 tags, and its ledger has 3" in report.unchecked[0]


async def test_a_concurrent_move_is_no_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """A tag that moves during the run is compared again with a newer checkpoint."""
    before = ledger.copy()
    ledger.push("latest", digest=A, mode="floating")
    ledger.shown_later = before.note()
    report = await look(ledger, tmp_path)

    assert (report.problems, report.size) == ([], 6)


async def test_a_truncated_ledger_is_detected(ledger: FakeLedger, tmp_path: Path) -> None:
    """A checkpoint with fewer entries than a stored one shows that the ledger was truncated."""
    await look(ledger, tmp_path)
    ledger.shown = 3
    with pytest.raises(LedgerBroken, match="cut back"):
        await look(ledger, tmp_path)


async def test_progress_ahead_of_the_ledger_could_not_be_checked(ledger: FakeLedger, tmp_path: Path) -> None:
    """Stored progress beyond the ledger, as after deletion of the trust, could not be checked."""
    await look(ledger, tmp_path)
    ClientState(tmp_path).forget(HOST)
    ledger.shown = 3
    with pytest.raises(LedgerUnchecked, match="the 5 that were read before"):
        await look(ledger, tmp_path)


async def test_without_the_right_to_the_entries_nothing_was_checked(ledger: FakeLedger, tmp_path: Path) -> None:
    """Without the right to read entries nothing is checked, because a checkpoint alone proves nothing about them."""
    ledger.entries_status = 403
    with pytest.raises(RemoteDenied):
        await look(ledger, tmp_path)


async def test_a_registry_without_a_ledger_could_not_be_checked(ledger: FakeLedger, tmp_path: Path) -> None:
    """A registry without a ledger is "could not check"."""
    ledger.status = 404
    with pytest.raises(LedgerUnchecked):
        await look(ledger, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"x" * 100])
async def test_an_unreadable_progress_file_is_no_new_start(ledger: FakeLedger, tmp_path: Path, damage: bytes) -> None:
    """A damaged progress file is an error and not a new start, which would hide an earlier problem."""
    await look(ledger, tmp_path)
    path = MonitorMemory(tmp_path, HOST).path
    for changed in (damage, path.read_bytes()[:-1], path.read_bytes() + b"x"):
        path.write_bytes(changed)
        with pytest.raises(MemoryUnusable):
            await look(ledger, tmp_path)


async def test_every_tag_is_compared_within_the_stated_number_of_runs(ledger: FakeLedger, tmp_path: Path) -> None:
    """Each run compares another share of all tags, also of those that changed long ago."""
    ledger.push(*(f"2.0.{number}" for number in range(50)))
    await look(ledger, tmp_path)  # after it no tag is recent
    runs = [await look(ledger, tmp_path) for _ in range(SHARES)]

    assert sum(run.compared for run in runs) == 53
    assert sorted(run.share or 0 for run in runs) == list(range(1, SHARES + 1))


async def test_a_changed_row_is_found_within_the_stated_number_of_runs_and_then_in_each(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """The share with the problem is compared again until the problem is gone; then the next one is."""
    await look(ledger, tmp_path)
    ledger.tags["shop/app", "1.0.0"] = B
    runs = [await look(ledger, tmp_path) for _ in range(SHARES + 2)]
    found = [bool(run.problems) for run in runs]
    ledger.tags["shop/app", "1.0.0"] = A
    after = [await look(ledger, tmp_path) for _ in range(2)]

    assert any(found)
    assert found == sorted(found)
    assert [run.problems for run in after] == [[], []]
    assert after[0].share == runs[-1].share != after[1].share


async def test_a_run_that_is_killed_is_done_again(ledger: FakeLedger, tmp_path: Path) -> None:
    """The next share is saved last; without that file, or with an invalid one, the first share is next."""
    await look(ledger, tmp_path)
    file = tmp_path / "monitor" / "reg.example%3A5000.share"
    saved = file.read_bytes()
    second = await look(ledger, tmp_path)
    file.write_bytes(saved)
    again = await look(ledger, tmp_path)
    file.write_bytes(b"")
    first = await look(ledger, tmp_path)

    assert (second.share, again.share, first.share) == (2, 2, 1)


async def test_a_tag_that_the_registry_lost_is_noticed_in_every_run(ledger: FakeLedger, tmp_path: Path) -> None:
    """The registry lists fewer tags than its ledger has."""
    await look(ledger, tmp_path)
    del ledger.tags["shop/app", "1.0.1"]
    run = await look(ledger, tmp_path)

    assert run.problems or "lists 2 tags, and its ledger has 3" in run.unchecked[0]
