"""The history of a registry's tags, proven against its signed ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.history import ProvenHistory, UnsignedTagEvent, read_history, read_unsigned
from boltseal.client.ledger_trust import LedgerCheck, LedgerWatch
from boltseal.client.state import ClientState
from boltseal.ledger.entry import parse
from boltseal.oci.reference import Repository, Tag
from tests.fakes.ledger import A, B, FakeLedger

HOST = "reg.example:5000"
SHOP, TAG = Repository("shop/app"), Tag("1.4.2")


@pytest.fixture
def ledger() -> FakeLedger:
    ledger = FakeLedger()
    ledger.push(*(f"1.4.{number}" for number in range(5)))
    ledger.push("latest", mode="floating")
    ledger.push("latest", digest=B, mode="floating")
    return ledger


async def history(ledger: FakeLedger, tmp_path: Path, tag: Tag | None = TAG) -> ProvenHistory:
    transport = ledger.transport()
    watch = LedgerWatch(ClientState(tmp_path / "state"), transport, lambda: 1)
    try:
        return await read_history(transport, HOST, SHOP, tag, watch.follow)
    finally:
        await transport.aclose()


async def test_the_entries_of_a_tag_are_proven(ledger: FakeLedger, tmp_path: Path) -> None:
    """Only the ledger entries of the requested tag are returned, each proven."""
    found = await history(ledger, tmp_path, Tag("latest"))

    assert not found.problems
    assert found.proven == {6, 7}


async def test_all_entries_of_a_repository_are_proven(ledger: FakeLedger, tmp_path: Path) -> None:
    """A repository's entries are proven over several pages and tiles."""
    ledger.push(*(f"2.0.{number}" for number in range(300)))
    found = await history(ledger, tmp_path, None)

    assert not found.problems
    assert found.proven == set(range(1, 308))


async def test_an_entry_that_is_not_in_the_ledger_is_a_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """A well-formed history entry that is not in the ledger is a problem."""
    signed = ledger.copy()
    line = parse(ledger.entries[3])
    ledger.entries[3] = ledger.entries[3].replace(line.actor.encode(), b"me")
    ledger.checkpoint = signed.note()
    found = await history(ledger, tmp_path)

    assert found.proven == frozenset()
    assert "entry 3: it is not in the signed ledger" in found.problems[0]


async def test_an_entry_that_is_signed_a_moment_after_it_was_shown_is_proven(
    ledger: FakeLedger, tmp_path: Path
) -> None:
    """A client follows the ledger again until its checkpoint covers the entries that it has read."""
    transport = ledger.transport()
    watch = LedgerWatch(ClientState(tmp_path / "state"), transport, lambda: 1)
    ledger.shown, sizes = 3, []

    async def follow(registry: str) -> LedgerCheck:
        check = await watch.follow(registry)
        sizes.append(0 if check.head is None else check.head.checkpoint.size)
        ledger.shown = None
        return check

    found = await read_history(transport, HOST, SHOP, Tag("latest"), follow)
    await transport.aclose()

    assert sizes == [3, 8]
    assert not found.problems
    assert found.proven == {6, 7}


async def test_an_entry_after_the_signed_head_is_not_proven(ledger: FakeLedger, tmp_path: Path) -> None:
    """An entry after the newest checkpoint is unsigned, so it is not proven."""
    ledger.shown = 3
    found = await history(ledger, tmp_path)

    assert found.problems == ("entry 3: it is after the end of the signed ledger",)


async def test_a_tag_that_differs_from_its_history_is_a_problem(ledger: FakeLedger, tmp_path: Path) -> None:
    """A tag that differs from its history, as after a change in the database, is a problem."""
    ledger.tags["shop/app", TAG] = B
    found = await history(ledger, tmp_path)

    assert found.problems == (f"the tag resolves to {B}, and its last entry 3 says {A}",)


@pytest.mark.parametrize(("status", "reason"), [(404, "shows no ledger"), (503, "503")])
async def test_a_history_without_a_ledger_is_not_proven(
    ledger: FakeLedger, tmp_path: Path, status: int, reason: str
) -> None:
    """A history whose ledger is absent or could not be read is reported as not proven, with the reason."""
    ledger.status = status
    found = await history(ledger, tmp_path)

    assert found.proven == frozenset()
    assert reason in found.problems[0]


async def test_an_unsigned_tag_history_is_read(ledger: FakeLedger) -> None:
    """All pages of the tag-history extension are read, the oldest event first."""
    ledger.push("latest", digest=A, mode="floating")
    transport = ledger.transport()
    found = await read_unsigned(transport, HOST, SHOP, Tag("latest"))
    ledger.unsigned = False
    with pytest.raises(RemoteNotFound):
        await read_unsigned(transport, HOST, SHOP, Tag("latest"))
    await transport.aclose()

    assert [(entry.digest, entry.event) for entry in found] == [(A, "created"), (B, "created"), (A, "created")]
    assert found == sorted(found, key=lambda entry: entry.time)
    assert isinstance(found[0], UnsignedTagEvent)


async def test_a_history_with_repeated_indices_is_refused(ledger: FakeLedger, tmp_path: Path) -> None:
    """A history whose indexes do not increase is refused, so that the list ends."""
    ledger.circle = True
    with pytest.raises(RemoteMismatch, match="after entry"):
        await history(ledger, tmp_path)
