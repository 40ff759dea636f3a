"""Witnesses: cosignatures are stored, an unreachable witness delays nothing, and a seen checkpoint can't be withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from starlette.responses import PlainTextResponse, Response

from boltseal.client.witness import WitnessClient
from boltseal.ledger.proof import open_receipt
from boltseal.policy.rules import parse_rules
from boltseal.server.registry.ledger import Ledger
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.registry.recovery import bring_back
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.registry.witnesses import Witnesses, WitnessState
from boltseal.server.storage.ledger_doubts import WITNESSES
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.metadata import ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, UnitOfWork
from boltseal.server.storage.metadata.schema import TABLES
from tests.fakes.witness import URL, FakeWitness
from tests.server.registry.ledgers import BareLedger, cosigners


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BareLedger]:
    made = BareLedger(tmp_path / "data")
    made.integrator.begin()
    made.add(3)
    made.integrator.integrate()
    yield made
    made.database.close()


@pytest.fixture
def witness(log: BareLedger) -> FakeWitness:
    key = log.keys.key()
    assert key is not None
    return FakeWitness(key.verifier)


def of(log: BareLedger, *fakes: FakeWitness) -> Witnesses:
    return Witnesses(
        log.database,
        log.keys,
        [WitnessState(WitnessClient(URL, app=fake.transport()), fake.key.verifier) for fake in fakes],
    )


async def test_each_checkpoint_is_cosigned(log: BareLedger, witness: FakeWitness) -> None:
    """Each checkpoint is cosigned, the second with a consistency proof, and both cosignatures are stored."""
    asking = of(log, witness)
    await asking.submit()
    first = cosigners(log, witness)
    log.add(300)
    log.integrator.integrate()
    between = cosigners(log, witness)
    await asking.submit()

    assert (first, between, cosigners(log, witness)) == (["witness.test/w1"], [], ["witness.test/w1"])
    assert asking.troubles == ()


async def test_a_witness_states_its_size_after_a_restart(log: BareLedger, witness: FakeWitness) -> None:
    """After a restart the witness's 409 states the size it has seen, for one more request."""
    await of(log, witness).submit()
    log.add(5)
    log.integrator.integrate()
    await of(log, witness).submit()

    assert cosigners(log, witness) == ["witness.test/w1"]
    assert witness.asked == 3


async def test_a_cosigned_checkpoint_is_not_submitted_again(log: BareLedger, witness: FakeWitness) -> None:
    """An idle ledger sends no requests to witnesses."""
    asking = of(log, witness)
    for _ in range(3):
        await asking.submit()

    assert witness.asked == 1


async def test_an_unreachable_witness_delays_no_other(log: BareLedger, witness: FakeWitness) -> None:
    """While one witness is unreachable the other still cosigns, and readiness reports the unreachable one."""
    dead = FakeWitness(witness.trusted, "witness.test/dead", bytes(32))
    dead.answers = [Response(status_code=500)]
    asking = of(log, dead, witness)
    await asking.submit()

    assert cosigners(log, witness, dead) == ["witness.test/w1"]
    assert len(asking.troubles) == 1
    assert "500" in asking.troubles[0]


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("nonsense"),
        PlainTextResponse("\u2014 witness.test/w1 AAAAAAAA\n"),
        PlainTextResponse(FakeWitness.__name__ * 10_000),
        Response("-1\n", 409, media_type="text/x.tlog.size"),
        Response("9" * 40, 409, media_type="text/x.tlog.size"),
        Response(status_code=404),
        Response(status_code=302, headers={"location": "https://elsewhere.test/"}),
    ],
)
async def test_an_invalid_answer_is_not_stored(log: BareLedger, witness: FakeWitness, answer: Response) -> None:
    """A witness's answer is verified and bounded, and a wrong one is reported and not stored."""
    witness.answers = [answer]
    asking = of(log, witness)
    await asking.submit()

    assert cosigners(log, witness) == []
    assert len(asking.troubles) == 1
    log.integrator.check()


async def test_a_cosignature_of_another_text_is_refused(log: BareLedger, witness: FakeWitness) -> None:
    """A cosignature by the witness's key over another text is refused."""
    line = witness.key.sign("another.example\n1\nAAAA\n", 1).line()
    witness.answers = [PlainTextResponse(line)]
    await of(log, witness).submit()

    assert cosigners(log, witness) == []


async def test_a_store_that_is_behind_a_witness_refuses_writes(
    log: BareLedger, witness: FakeWitness, tmp_path: Path
) -> None:
    """An old backup with old keys is detected by a witness, which has the newer signed checkpoint; writes are refused."""
    await of(log, witness).submit()
    old = log.keys.mark() or b""
    kept = log.lines()
    log.add(5)
    log.integrator.integrate()
    await of(log, witness).submit()
    _put_back(log, len(kept), old)
    log.integrator.check()  # local files do not show it
    await of(log, witness).submit()

    with pytest.raises(LedgerInDoubt, match="9 entries of the ledger were signed, but the data has 4"):
        log.integrator.check()


async def test_a_witness_does_not_lower_the_mark(log: BareLedger, witness: FakeWitness) -> None:
    """With an old database and the newest keys, a witness in between does not lower the high-water mark."""
    old, kept = log.keys.mark() or b"", len(log.lines())
    log.add(2)
    log.integrator.integrate()
    await of(log, witness).submit()
    log.add(3)
    log.integrator.integrate()
    newest = log.keys.mark() or b""
    _put_back(log, kept, old)
    log.keys.put_mark(newest, before=log.keys.mark())
    await of(log, witness).submit()

    assert log.keys.mark() == newest
    with pytest.raises(LedgerInDoubt, match="9 entries of the ledger were signed, but the data has 4"):
        log.integrator.check()


async def test_a_witness_does_not_replace_an_invalid_mark(log: BareLedger, witness: FakeWitness) -> None:
    """If the mark is invalid, a witness's checkpoint does not replace it, since it may not be the largest."""
    old, kept = log.keys.mark() or b"", len(log.lines())
    log.add(2)
    log.integrator.integrate()
    await of(log, witness).submit()
    _put_back(log, kept, old)
    log.keys.put_mark(b"nonsense", before=log.keys.mark())
    await of(log, witness).submit()

    assert log.keys.mark() == b"nonsense"


async def test_another_history_than_a_witness_saw_freezes_the_ledger(log: BareLedger, witness: FakeWitness) -> None:
    """A restored and continued store is a fork, which a witness detects although the store is consistent."""
    old = log.keys.mark() or b""
    kept = len(log.lines())
    log.add(2)
    log.integrator.integrate()
    await of(log, witness).submit()
    _put_back(log, kept, old)
    log.add(7)
    log.integrator.integrate()
    await of(log, witness).submit()

    with pytest.raises(LedgerInDoubt, match="is not the one that was signed"):
        log.integrator.check()


async def test_a_larger_size_of_a_witness_without_a_checkpoint_is_trusted(
    log: BareLedger, witness: FakeWitness
) -> None:
    """A 409 with a larger size puts the ledger in doubt, because data and keys may both be an old copy."""
    witness.answers = [Response("1000\n", 409, media_type="text/x.tlog.size")]
    asking = of(log, witness)
    await asking.submit()

    with pytest.raises(LedgerInDoubt, match="saw 1000 entries"):
        log.integrator.check()
    assert len(asking.troubles) == 1


async def test_a_receipt_has_the_cosignature(log: BareLedger, witness: FakeWitness) -> None:
    """A receipt uses an older checkpoint if the newest is not cosigned yet."""
    await of(log, witness).submit()
    log.add(2)
    log.integrator.integrate()
    raw = await Ledger(log.database).receipt(1)
    opened = open_receipt(raw, witness.trusted, [witness.key.verifier])

    assert [one.witness for one in opened.signed.cosignatures] == ["witness.test/w1"]


async def test_an_unreadable_key_asks_no_witness(log: BareLedger, witness: FakeWitness) -> None:
    """With an unreadable key no witness is asked; the server starts and serves pulls, and refuses writes."""
    (log.keys.folder / "ledger.key").write_text("nonsense")
    await of(log, witness).at_start()

    assert witness.asked == 0
    with pytest.raises(LedgerKeyUnreadable):
        log.integrator.check()


async def test_a_folder_of_keys_that_can_not_be_locked_is_tried_again(log: BareLedger, witness: FakeWitness) -> None:
    """If the key folder can't be locked, the submission is repeated and its task continues."""
    (log.keys.folder / "witness.lock").mkdir()
    asking = asyncio.create_task(of(log, witness).run())
    await asyncio.sleep(0)
    ended = asking.done()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking

    assert not ended
    assert witness.asked == 0


async def test_one_process_of_a_store_submits_to_witnesses(log: BareLedger) -> None:
    """One process of a store submits to witnesses, and another one continues when it ends."""
    with log.keys.witnessing() as first, log.keys.witnessing() as second:
        assert (first, second) == (True, False)


def _put_back(log: BareLedger, size: int, mark: bytes) -> None:
    """Restore database and keys as they were at an earlier size."""

    def undo(tx: UnitOfWork) -> None:
        tx.sql.connection.execute(delete(TABLES[LEDGER].entry).where(TABLES[LEDGER].entry.c.idx >= size))
        tx.sql.connection.execute(update(TABLES[LEDGER].head).values(size=size))

    log.database.write_and_wait(undo)
    log.database.write_and_wait(ledger_tree.remove_tree)
    log.keys.put_mark(mark, before=log.keys.mark())
    log.reopen()
    log.integrator.integrate()


async def test_a_larger_size_is_enough_to_refuse_writes(log: BareLedger, witness: FakeWitness) -> None:
    """A witness that shows no checkpoint knows of lost entries: data, mark and key are an old copy."""
    witness.shows = False
    await of(log, witness).submit()
    old, kept = log.keys.mark() or b"", log.lines()
    log.add(5)
    log.integrator.integrate()
    await of(log, witness).submit()
    _put_back(log, len(kept), old)
    log.integrator.check()
    await of(log, witness).submit()

    with pytest.raises(LedgerInDoubt, match=r"witness\.test/w1 saw 9 entries of the ledger, and the data has 4"):
        log.integrator.check()


async def test_the_checkpoint_is_read_at_the_monitoring_prefix(log: BareLedger, witness: FakeWitness) -> None:
    """The server reads a witness's checkpoint at `monitoring`, which may differ from the address of submissions."""
    witness.monitored_at = "/monitor"
    state = WitnessState(WitnessClient(URL, monitoring=f"{URL}/monitor", app=witness.transport()), witness.key.verifier)
    asking = Witnesses(log.database, log.keys, [state])
    await asking.submit()
    old, kept = log.keys.mark() or b"", log.lines()
    log.add(5)
    log.integrator.integrate()
    await asking.submit()
    _put_back(log, len(kept), old)
    await of_monitored(log, witness).submit()

    with pytest.raises(LedgerInDoubt):
        log.integrator.check()
    assert log.keys.mark() == witness.seen


def of_monitored(log: BareLedger, witness: FakeWitness) -> Witnesses:
    client = WitnessClient(URL, monitoring=f"{URL}/monitor", app=witness.transport())
    return Witnesses(log.database, log.keys, [WitnessState(client, witness.key.verifier)])


@pytest.mark.parametrize(("quorum", "frozen"), [(None, True), (2, True), (1, False)])
async def test_enough_witnesses_must_agree_after_a_start(
    log: BareLedger, witness: FakeWitness, quorum: int | None, frozen: bool
) -> None:
    """A witness that can't be asked does not agree; the quorum sets how many witnesses must agree."""
    dead = FakeWitness(witness.trusted, "witness.test/dead", bytes(32))
    dead.answers = [Response(status_code=500)] * 9
    log.doubts.put(WITNESSES, "not asked yet")
    states = [WitnessState(WitnessClient(URL, app=one.transport()), one.key.verifier) for one in (witness, dead)]
    await Witnesses(log.database, log.keys, states, quorum=quorum).submit()

    assert log.doubts.has(WITNESSES) is frozen


async def test_a_witness_that_never_saw_the_ledger_agrees(log: BareLedger, witness: FakeWitness) -> None:
    """A witness that does not know the ledger agrees, and readiness reports that its operator must add the ledger."""
    witness.answers = [Response(status_code=404)]
    log.doubts.put(WITNESSES, "not asked yet")
    asking = of(log, witness)
    await asking.submit()

    assert not log.doubts.has(WITNESSES)
    assert "does not know this ledger" in asking.troubles[0]


@pytest.mark.parametrize("size", [9, 10**15])
async def test_a_witness_that_agrees_again_ends_the_doubt(log: BareLedger, witness: FakeWitness, size: int) -> None:
    """A witness that stated a larger size and then cosigns the newest checkpoint ends the doubt without a restart."""
    witness.answers = [Response(f"{size}\n", 409, media_type="text/x.tlog.size")]
    asking = of(log, witness)
    await asking.submit()
    doubted = log.doubts.has(WITNESSES)
    for state in asking._witnesses:
        state.retry_s = 0.0
    await asking.submit()

    assert doubted
    assert not log.doubts.has(WITNESSES)


async def test_restored_entries_end_the_doubt_of_a_running_server(log: BareLedger, witness: FakeWitness) -> None:
    """The witness is asked again about exactly the checkpoint that it saw, which the store has again."""
    await of(log, witness).submit()
    old, kept = log.keys.mark() or b"", log.lines()
    log.add(5)
    log.integrator.integrate()
    await of(log, witness).submit()
    newest, lines = log.keys.mark() or b"", log.lines()
    _put_back(log, len(kept), old)
    asking = of(log, witness)
    await asking.submit()
    doubted = log.doubts.has(WITNESSES)
    bring_back(log.database, log.keys, TagWriter(parse_rules([])), lambda first, end: lines[first:end], newest)
    with pytest.raises(LedgerInDoubt):
        log.integrator.integrate()
    for state in asking._witnesses:
        state.retry_s = 0.0
    await asking.submit()

    assert doubted
    assert not log.doubts.has(WITNESSES)


async def test_a_witness_that_fails_is_asked_again_soon(log: BareLedger, witness: FakeWitness) -> None:
    """The pauses grow from a second to half a minute, for that witness alone."""
    witness.answers = [Response(status_code=500)] * 8
    state = WitnessState(WitnessClient(URL, app=witness.transport()), witness.key.verifier)
    asking = Witnesses(log.database, log.keys, [state])
    now = asyncio.get_running_loop().time
    pauses = []
    for _ in range(8):
        await asking.submit()
        pauses.append(round(state.retry_s - now()))
        state.retry_s = 0.0

    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
