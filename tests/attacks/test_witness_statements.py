"""A witness that contradicts the data counts after a restart, and whatever the other witnesses say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from boltseal.client.witness import WitnessClient
from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.server.registry.witnesses import Witnesses, WitnessState
from boltseal.server.settings import Settings
from boltseal.server.storage.ledger_doubts import WITNESSES
from boltseal.server.storage.witness_statements import WitnessStatements
from boltseal.server.store_factory import open_metadata, prepare
from tests import images
from tests.cli import program
from tests.fakes.witness import URL, FakeWitness
from tests.polling import until, until_answer, until_signed
from tests.server.registry.ledgers import BareLedger
from tests.serving import copy_of, ledger_key, serving, serving_as
from tests.storage_choice import with_storage

NOT_ASKED = "not asked yet"
SIZE_TYPE = "text/x.tlog.size"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BareLedger]:
    made = BareLedger(tmp_path / "data")
    made.integrator.begin()
    made.add(3)
    made.integrator.integrate()
    yield made
    made.database.close()


def fake(log: BareLedger, name: str = "w1") -> FakeWitness:
    """Return a witness that shows no checkpoints."""
    key = log.keys.key()
    assert key is not None
    return FakeWitness(key.verifier, f"witness.test/{name}", shows=False)


def larger(size: int = 9) -> Response:
    return Response(f"{size}\n", 409, media_type=SIZE_TYPE)


def down() -> Response:
    return Response(status_code=502)


async def started(log: BareLedger, *fakes: FakeWitness, quorum: int | None = None) -> Witnesses:
    """Ask the witnesses once, as a server that has just been started does, and return them."""
    if not log.doubts.has(WITNESSES):
        log.doubts.put(WITNESSES, NOT_ASKED)
    states = [WitnessState(WitnessClient(URL, app=one.transport()), one.key.verifier) for one in fakes]
    asking = Witnesses(log.database, log.keys, states, quorum=quorum)
    await asking.submit()
    return asking


async def again(asking: Witnesses) -> None:
    """Ask once more, without the pause after a failure."""
    for state in asking._witnesses:
        state.retry_s = 0.0
    await asking.submit()


async def test_a_larger_size_is_remembered_over_a_restart_while_its_witness_is_down(log: BareLedger) -> None:
    """The other witness is enough for the quorum, but it does not contradict what the first one stated."""
    first, second = fake(log), fake(log, "w2")
    first.answers = [larger(), down()]
    await started(log, first, second, quorum=1)
    await started(log, first, second, quorum=1)

    assert "saw 9 entries of it, more than the data had" in (log.doubts.reason() or "")


async def test_a_larger_size_is_not_withdrawn_by_a_404(log: BareLedger) -> None:
    """A witness that stated a larger size and then does not know the ledger has lost its state, and does not agree."""
    first = fake(log)
    first.answers = [larger(), Response(status_code=404)]
    asking = await started(log, first)
    await again(asking)

    assert "saw 9 entries" in (log.doubts.reason() or "")
    assert "it does not know this ledger, but it saw 9 entries of it" in asking.troubles[0]


@pytest.mark.parametrize("answer", [404, 403])
async def test_a_witness_that_cosigned_and_does_not_know_the_ledger_any_more_does_not_agree(
    log: BareLedger, answer: int
) -> None:
    """After a start, a 404 of a wrong address or of a proxy before a witness is not the agreement of that witness."""
    first = fake(log)
    await started(log, first)
    agreed = log.doubts.has(WITNESSES)
    first.answers = [Response(status_code=answer)]
    await started(log, first)

    assert not agreed
    assert log.doubts.reason() == NOT_ASKED


async def test_a_running_server_takes_writes_while_a_witness_forgot_the_ledger(log: BareLedger) -> None:
    """A witness that agreed and fails later changes nothing, and is reported."""
    first = fake(log)
    asking = await started(log, first)
    log.add(1)
    log.integrator.integrate()
    first.answers = [Response(status_code=404)]
    await again(asking)

    assert not log.doubts.has(WITNESSES)
    assert "does not know this ledger, but it cosigned 4 entries of it" in asking.troubles[0]


@dataclass
class Forked(FakeWitness):
    """A witness that saw other entries: it states its size, and refuses every proof from it, and its size with another root."""

    size: int = 2

    async def add(self, request: Request) -> Response:
        if self.answers:
            return self.answers.pop(0)
        head, _, note = (await request.body()).partition(b"\n\n")
        submitted = open_checkpoint(note, self.trusted).checkpoint.size
        if head.splitlines()[0] != f"old {self.size}".encode() or submitted == self.size:
            return larger(self.size)
        return Response(status_code=422)


@pytest.mark.parametrize("size", [2, 4])
async def test_a_witness_that_saw_other_entries_is_a_doubt_without_its_checkpoint(log: BareLedger, size: int) -> None:
    """Data that was put back and continued has enough entries, so only the refusal shows the fork, also after a restart."""
    key = log.keys.key()
    assert key is not None
    first, second = Forked(key.verifier, size=size, shows=False), fake(log, "w2")
    await started(log, first, second, quorum=1)
    doubted = log.doubts.reason() or ""
    first.answers = [down()]
    await started(log, first, second, quorum=1)

    assert f"saw other entries than the first {size} of this ledger" in doubted
    assert f"has not agreed since it saw other entries than its first {size}" in (log.doubts.reason() or "")


async def test_a_witness_that_agrees_again_is_trusted_again_after_a_restart(log: BareLedger) -> None:
    """What a witness stated before is replaced when it cosigns the newest checkpoint."""
    first, second = fake(log), fake(log, "w2")
    first.answers = [larger()]
    asking = await started(log, first, second, quorum=1)
    await again(asking)
    first.answers = [down()]
    await started(log, first, second, quorum=1)

    assert not log.doubts.has(WITNESSES)


async def test_a_statement_that_can_not_be_read_is_no_agreement(log: BareLedger) -> None:
    """A changed row of a statement lets no witness agree."""
    await started(log, fake(log))
    log.database.write_and_wait(lambda tx: tx.sql.plain("UPDATE witness_statement SET stated = 'perhaps'"))
    await started(log, fake(log))

    assert log.doubts.reason() == NOT_ASKED


@dataclass
class Stubborn(FakeWitness):
    """A witness that refuses every checkpoint, and shows an old one of this ledger."""

    shown: bytes = b""

    async def add(self, request: Request) -> Response:
        return larger(0)

    async def latest(self, request: Request) -> Response:
        return Response(self.shown)


async def test_a_witness_that_refuses_and_shows_what_the_ledger_has_is_reported(log: BareLedger) -> None:
    """Such a witness is asked after pauses, and its refusal is not hidden by the valid checkpoint that it shows."""
    key = log.keys.key()
    assert key is not None
    stubborn = Stubborn(key.verifier, shown=log.keys.mark() or b"")
    log.add(2)
    log.integrator.integrate()
    asking = await started(log, stubborn)

    assert "refused the checkpoint of 6 entries, and shows one of 4 that this ledger has" in asking.troubles[0]
    assert log.doubts.reason() == NOT_ASKED


@pytest.mark.parametrize(
    "answer",
    [
        Response(status_code=409),
        Response("9\n", 409, media_type="text/plain"),
        Response("-1\n", 409, media_type=SIZE_TYPE),
        Response("9\n9\n", 409, media_type=SIZE_TYPE),
        Response("٩\n", 409, media_type=SIZE_TYPE),
        Response("9" * 19, 409, media_type=SIZE_TYPE),
        Response("", 409, media_type=SIZE_TYPE),
        Response(status_code=307, headers={"location": f"{URL}/add-checkpoint"}),
        Response(status_code=422),
        Response(status_code=200),
        Response(b"\xff\xfe", 200),
        Response("\u2014 witness.test/w1 AAAA\n", 200),
        Response(status_code=204),
        Response(status_code=500),
    ],
)
async def test_an_answer_that_says_nothing_is_no_agreement(log: BareLedger, answer: Response) -> None:
    """After a start, a refusal, a redirect or a malformed answer of a witness leaves the ledger in doubt."""
    first = fake(log)
    first.answers = [answer]
    asking = await started(log, first)

    assert log.doubts.reason() == NOT_ASKED
    assert asking.troubles


async def test_a_witness_with_another_key_does_not_agree(log: BareLedger) -> None:
    """A cosignature under the name of the witness by another key than the configured one is no agreement."""
    first = fake(log)
    configured = first.key.verifier
    first.seed = bytes(32)
    log.doubts.put(WITNESSES, NOT_ASKED)
    state = WitnessState(WitnessClient(URL, app=first.transport()), configured)
    asking = Witnesses(log.database, log.keys, [state])
    await asking.submit()

    assert log.doubts.reason() == NOT_ASKED
    assert "signed with another key" in asking.troubles[0]


def witnessed(data: Path, *fakes: FakeWitness, quorum: int | None = None) -> Settings:
    return with_storage(
        Settings.model_validate(
            {
                "server": {"data": data},
                "ledger": {} if quorum is None else {"witness_quorum": quorum},
                "witness": [{"url": URL, "key": str(one.key.verifier)} for one in fakes],
            }
        )
    )


async def put_back(tmp_path: Path) -> tuple[Path, FakeWitness]:
    """Return an old copy of data and keys, made after a witness cosigned, and the witness, which saw one entry more."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
        await until_signed(registry.client, 3)
    one = FakeWitness(ledger_key(data), shows=False)
    settings = witnessed(data, one)
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()):
        await until(lambda: one.saw() == 3, "the witness saw the ledger")
    old = copy_of(data, tmp_path / "old")
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        await images.push(registry.client, "shop/app", "1.4.2", images.image("one"))
        await until(lambda: one.saw() == 4, "the witness saw the newest checkpoint")
    return old, one


async def test_data_and_keys_are_put_back_while_the_witness_answers_404(tmp_path: Path) -> None:
    """The server takes no push, since the witness cosigned this ledger before the copy was made."""
    old, one = await put_back(tmp_path)
    one.answers = [Response(status_code=404)] * 99
    settings = witnessed(old, one)
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        pushed = await images.put(registry.client, "shop/app", "1.4.2", images.image("one"))
        ready = await registry.client.get("/readyz")

    assert pushed.status_code in (405, 503)
    assert ready.status_code == 503
    assert "does not know this ledger, but it cosigned" in ready.text


async def test_a_witness_that_was_removed_and_added_again_is_a_new_one(tmp_path: Path) -> None:
    """What a witness stated is forgotten at a start without its table, so the operator can end a doubt."""
    old, one = await put_back(tmp_path)
    prepare(witnessed(old))
    one.answers = [Response(status_code=404)] * 99
    settings = witnessed(old, one)
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        taken = await images.push(registry.client, "shop/app", "1.4.3", images.image("one"))

    assert taken.status_code == 201


async def test_an_accepted_loss_ends_what_witnesses_stated_beside_the_running_server(tmp_path: Path) -> None:
    """The ledger has another origin then, which no witness knows; the running server takes pushes again."""
    old, one = await put_back(tmp_path)
    settings = witnessed(old, one)
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        before = await registry.client.get("/readyz")
        one.answers = [Response(status_code=404)] * 99
        words = ("ledger", "recover", "--accept-loss", "--reason", "test", "--data", old)
        done = await asyncio.to_thread(program.call, *words)

        async def is_taken() -> bool:
            return (await images.put(registry.client, "shop/app", "1.4.3", images.image("one"))).status_code == 201

        await until_answer(is_taken, "pushes are taken")
    with open_metadata(settings) as database:
        stated = WitnessStatements(database, settings.keys).read()

    assert (before.status_code, done.code) == (503, 0)
    assert stated == {}
