"""A witness that forges, delays or floods is reported, and delays neither the registry nor another witness."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response

from boltseal.client.witness import WitnessClient
from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.server.registry.witnesses import Witnesses, WitnessState
from boltseal.server.settings import Settings
from boltseal.server.store_factory import prepare
from tests import images
from tests.cli import program
from tests.fakes.witness import URL, FakeWitness
from tests.polling import until, until_answer, until_signed
from tests.server.registry.ledgers import BareLedger, cosigners
from tests.serving import copy_of, ledger_key, serving, serving_as, settings_of
from tests.storage_choice import with_storage


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BareLedger]:
    made = BareLedger(tmp_path / "data")
    made.integrator.begin()
    made.add(3)
    made.integrator.integrate()
    yield made
    made.database.close()


def fake(log: BareLedger, name: str = "witness.test/w1") -> FakeWitness:
    key = log.keys.key()
    assert key is not None
    return FakeWitness(key.verifier, name)


def asked(witness: FakeWitness, transport: httpx2.AsyncBaseTransport, within_s: float = 3600.0) -> WitnessState:
    return WitnessState(WitnessClient(URL, app=transport, answers_within_s=within_s), witness.key.verifier)


@dataclass
class Late(FakeWitness):
    """A witness during whose request the ledger grows: it returns a checkpoint between the submitted and the newest
    one."""

    log: BareLedger | None = None
    shown: bytes = b""

    async def add(self, request: Request) -> Response:
        assert self.log is not None
        self.log.add(2)
        between = self.log.integrator.integrate()
        self.shown = self.log.keys.mark() or b""
        self.log.add(3)
        self.log.integrator.integrate()
        assert between is not None
        return Response(f"{between.size}\n", 409, media_type="text/x.tlog.size")

    async def latest(self, request: Request) -> Response:
        return Response(self.shown)


async def test_an_older_checkpoint_that_is_returned_late_does_not_lower_the_mark(log: BareLedger) -> None:
    """A witness's late answer about an older checkpoint does not lower the high-water mark."""
    witness = fake(log)
    late = Late(witness.trusted, log=log)
    asking = Witnesses(log.database, log.keys, [asked(late, late.transport())])
    await asking.submit()
    marked = open_checkpoint(log.keys.mark() or b"", witness.trusted).checkpoint

    assert marked == log.expected()
    log.integrator.check()


class EndlessBody(httpx2.AsyncByteStream):
    """A body that arrives a byte at a time, and never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"\n"
            await asyncio.sleep(0.01)  # a body that arrives byte by byte


@dataclass
class CompleteBody(httpx2.AsyncByteStream):
    """A body that arrives at once."""

    body: bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


@dataclass
class FixedAnswer(httpx2.AsyncBaseTransport):
    """Answers every request alike, and records the requests' headers."""

    body: httpx2.AsyncByteStream
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[httpx2.Headers] = field(default_factory=list)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.headers)
        return httpx2.Response(200, headers=self.headers, stream=self.body)


async def test_an_endless_answer_is_abandoned(log: BareLedger) -> None:
    """An endless answer, each byte of which arrives in time, is abandoned."""
    asking = Witnesses(log.database, log.keys, [asked(fake(log), FixedAnswer(EndlessBody()), within_s=0.2)])
    async with asyncio.timeout(30):
        await asking.submit()

    assert "does not answer: TimeoutError" in asking.troubles[0]


@pytest.mark.slow
async def test_a_witness_that_never_ends_an_answer_delays_no_other(log: BareLedger) -> None:
    """A witness that never ends an answer does not delay another witness, which receives each new checkpoint."""
    good, slow = fake(log), fake(log, "witness.test/slow")
    asking = Witnesses(log.database, log.keys, [asked(slow, FixedAnswer(EndlessBody())), asked(good, good.transport())])
    running = asyncio.create_task(asking.run())
    try:
        await until(lambda: cosigners(log, good), "the good witness has cosigned")
        log.add(2)
        log.integrator.integrate()
        await until(lambda: cosigners(log, good), "the good witness has cosigned")
    finally:
        running.cancel()

    assert cosigners(log, good) == ["witness.test/w1"]


async def test_a_compressed_answer_is_not_decompressed(log: BareLedger) -> None:
    """A compressed answer is neither requested nor decompressed."""
    answering = FixedAnswer(CompleteBody(gzip.compress(bytes(10_000_000))), {"content-encoding": "gzip"})
    asking = Witnesses(log.database, log.keys, [asked(fake(log), answering)])
    await asking.submit()

    assert answering.asked[0]["accept-encoding"] == "identity"
    assert "more than" not in asking.troubles[0]


async def test_unreadable_keys_do_not_end_the_submission(log: BareLedger) -> None:
    """An unreadable key is reported, and the submission is repeated later."""
    witness = fake(log)
    asking = Witnesses(log.database, log.keys, [asked(witness, witness.transport())])
    key = log.keys.folder / "ledger.key"
    key.unlink()
    key.mkdir()
    running = asyncio.create_task(asking.run())
    await until(lambda: asking.troubles or running.done(), "the failure is reported")
    ended = running.done()
    running.cancel()

    assert not ended
    assert "ledger.key can't be read" in asking.troubles[0]


async def test_a_registry_with_witnesses_serves_though_its_key_can_not_be_read(tmp_path: Path) -> None:
    """Pulls continue while the registry's key is unreadable, also with witnesses configured."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
    other = FakeWitness(ledger_key(data))
    key = data.with_name("data.keys") / "ledger.key"
    key.unlink()
    key.mkdir()
    settings = Settings.model_validate(
        {"server": {"data": data}, "witness": [{"url": URL, "key": str(other.key.verifier)}]}
    )
    async with serving_as(settings, witness_app=other.transport()) as registry:
        pulled = await registry.client.get("/v2/shop/app/manifests/1.0.0")
        refused = await images.put(registry.client, "shop/app", "2.0.0", images.image("one"))

    assert (pulled.status_code, refused.status_code) == (200, 503)


def witnessed(data: Path, witness: FakeWitness) -> Settings:
    return with_storage(
        Settings.model_validate({"server": {"data": data}, "witness": [{"url": URL, "key": str(witness.key.verifier)}]})
    )


async def put_back(tmp_path: Path) -> tuple[Path, FakeWitness, Settings]:
    """Return newer data, a witness that saw its newest checkpoint and shows none, and the settings of an older copy."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
        await until_signed(registry.client, 3)
    one = FakeWitness(ledger_key(data), shows=False)
    old = copy_of(data, tmp_path / "old")
    settings = witnessed(data, one)
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        await images.push(registry.client, "shop/app", "1.4.2", images.image("one"))
        await until(lambda: one.saw() == 4, "the witness saw the newest checkpoint")
    older = witnessed(old, one)
    prepare(older)
    return data, one, older


async def test_data_and_keys_are_put_back_and_only_a_witness_without_checkpoints_knows(tmp_path: Path) -> None:
    """The server refuses pushes if a witness answers a submission with a larger size that it saw."""
    _, one, settings = await put_back(tmp_path)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        ready = await registry.client.get("/readyz")
        pushed = await images.put(registry.client, "shop/app", "1.4.2", images.image("two"))
        pulled = await registry.client.get("/v2/shop/app/manifests/1.0.0")

    assert ready.status_code == 503
    assert "saw 4 entries of the ledger, and the data has 3" in ready.text
    assert pushed.status_code in (405, 503)
    assert pulled.status_code == 200


@pytest.mark.files_only("recovers entries from another data folder")
async def test_entries_that_a_witness_knows_are_recovered_beside_the_running_server(tmp_path: Path) -> None:
    """After `ledger recover --from` the server takes pushes without a restart, and the sealed tag is the one of the lost data."""
    data, one, settings = await put_back(tmp_path)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        before = await registry.client.get("/readyz")
        done = await asyncio.to_thread(
            program.call, "ledger", "recover", "--from", data, "--data", settings.server.data
        )

        async def is_ready() -> bool:
            return (await registry.client.get("/readyz")).status_code == 200

        await until_answer(is_ready, "the witness was asked about the recovered entries and agrees")
        refused = await images.put(registry.client, "shop/app", "1.4.2", images.image("two"))
        taken = await images.push(registry.client, "shop/app", "1.4.3", images.image("two"))

    assert (before.status_code, done.code) == (503, 0)
    assert (refused.status_code, taken.status_code) == (409, 201)


async def test_a_witness_that_does_not_answer_at_the_start_does_not_agree(tmp_path: Path) -> None:
    """Nothing is written before it does; then pushes are taken without a restart."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
        await until_signed(registry.client, 3)
    one = FakeWitness(ledger_key(data))
    one.answers = [Response(status_code=500)]
    settings = witnessed(data, one)
    prepare(settings)
    async with serving_as(settings, witness_app=one.transport()) as registry:
        refused = await images.put(registry.client, "shop/app", "1.0.1", images.image("one"))
        ready = await registry.client.get("/readyz")

        async def is_ready() -> bool:
            return (await registry.client.get("/readyz")).status_code == 200

        await until_answer(is_ready, "the witness was asked again and agrees")
        taken = await images.put(registry.client, "shop/app", "1.0.1", images.image("one"))

    assert (refused.status_code in (405, 503), ready.status_code, taken.status_code) == (True, 503, 201)
    assert "have not confirmed yet" in ready.text


async def test_without_witnesses_their_doubt_ends_at_the_next_start(tmp_path: Path) -> None:
    """The operator decided that their word does not count any more."""
    data = tmp_path / "data"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
        await until_signed(registry.client, 3)
    prepare(witnessed(data, FakeWitness(ledger_key(data))))
    prepare(settings_of(data))
    async with serving(data) as registry:
        taken = await images.put(registry.client, "shop/app", "1.0.1", images.image("one"))

    assert taken.status_code == 201
