"""A registry as a witness over HTTP: the statuses of C2SP tlog-witness, lies of ledgers, and two registries that vouch for each other."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from boltseal.client.witness import Cosigned, ProofRefused, SizeConflict, WitnessClient
from boltseal.errors import Unavailable
from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.ledger.cosigning import MAX_SUBMISSION_BYTES
from boltseal.ledger.note import COSIGNATURE, ED25519, VerifierKey
from boltseal.server.registry.witness_service import KEY_NAME
from boltseal.server.settings import Settings
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.store_factory import prepare
from tests import images
from tests.asgi import App, send
from tests.cli import program
from tests.docs.pages import text, typed_lines
from tests.polling import until_answer, until_signed
from tests.server.registry.other_ledger import OtherLedger
from tests.serving import Serving, serving_as
from tests.storage_choice import with_storage

LOG = OtherLedger()
FORK = OtherLedger(fork=4)
UNKNOWN = OtherLedger("unknown.example.com")
IMPOSTOR = OtherLedger(seed=bytes(range(1, 33)))
URL = "https://other.test/witness"
SHOWN = f"/witness/{sha256(LOG.key.name.encode()).hexdigest()}/checkpoint"
OLD_DIFFERS = (409, "text/x.tlog.size")


def settings(data: Path, *keys: VerifierKey, witness: VerifierKey | None = None, **server: object) -> Settings:
    """Return the settings of a registry that cosigns the ledgers of these keys, and is cosigned by this witness."""
    tables: dict[str, object] = {"server": {"data": data, **server}}
    if keys:
        tables["witness_service"] = {"logs": [str(key) for key in keys]}
    if witness is not None:
        tables["witness"] = [{"url": URL, "key": str(witness)}]
    return with_storage(Settings.model_validate(tables))


@asynccontextmanager
async def witness(data: Path, *, read_only: bool = False) -> AsyncIterator[Serving]:
    async with serving_as(settings(data, LOG.key.verifier, read_only=read_only)) as registry:
        yield registry


async def add(registry: Serving, body: bytes) -> tuple[int, str]:
    """Submit a checkpoint; return status and media type."""
    answer = await registry.client.post("/witness/add-checkpoint", content=body)
    return answer.status_code, answer.headers["content-type"].partition(";")[0]


async def test_each_status_is_that_of_the_specification(tmp_path: Path) -> None:
    """Cosigned, conflicting, unproven, unsigned, unknown and malformed requests get 200, 409, 422, 403, 404 and 400."""
    async with witness(tmp_path / "data") as registry:
        before = await registry.client.get(SHOWN)
        statuses = [
            await add(registry, body)
            for body in (
                LOG.request(0, 5),
                LOG.request(0, 9),
                LOG.request(5, 5),
                FORK.request(5, 9),
                FORK.request(5, 5),
                IMPOSTOR.request(5, 9),
                UNKNOWN.request(0, 3),
                b"old 9\n\n" + LOG.note(5),
                b"hello",
                LOG.request(5, 9)[:-9],
                LOG.request(5, 9),
            )
        ]
        conflict = await registry.client.post("/witness/add-checkpoint", content=LOG.request(5, 5))
        shown = await registry.client.get(SHOWN)

    assert before.status_code == 404
    assert [status for status, _ in statuses] == [200, 409, 200, 422, 422, 403, 404, 400, 400, 400, 200]
    assert statuses[1] == OLD_DIFFERS
    assert (conflict.text, shown.status_code) == ("9\n", 200)
    assert shown.content.startswith(LOG.note(9))


async def test_no_other_method_or_path_is_answered(tmp_path: Path) -> None:
    """Only the two routes of the specification exist, without escapes, and a HEAD has no body."""
    async with witness(tmp_path / "data") as registry:
        await add(registry, LOG.request(0, 5))
        app: App = registry.app
        got = [
            (await send(app, method, path)).status
            for method, path in (
                ("GET", "/witness/add-checkpoint"),
                ("PUT", "/witness/add-checkpoint"),
                ("POST", SHOWN),
                ("DELETE", SHOWN),
                ("HEAD", SHOWN),
                ("GET", SHOWN.replace("checkpoint", "%63heckpoint")),
                ("GET", SHOWN.upper()),
                ("GET", "/witness/../ledger/checkpoint"),
                ("GET", "/witness/"),
                ("POST", "/witness/sign-subtree"),
                ("POST", "/witness/add-checkpoint/"),
            )
        ]

    assert got == [405, 405, 405, 405, 200, 404, 404, 404, 404, 404, 404]


async def test_a_body_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A body has a limit, which the longest proof and a checkpoint with many signatures do not reach."""
    async with witness(tmp_path / "data") as registry:
        largest = await add(registry, b"x" * MAX_SUBMISSION_BYTES)
        larger = await add(registry, b"x" * (MAX_SUBMISSION_BYTES + 1))
        many = await add(registry, LOG.request(0, 5) + IMPOSTOR.note(5).split(b"\n\n")[1] * 98)
        too_many = await add(registry, LOG.request(5, 6) + IMPOSTOR.note(6).split(b"\n\n")[1] * 100)

    assert [each[0] for each in (largest, larger, many, too_many)] == [400, 413, 200, 400]


async def test_a_login_is_not_needed_and_a_registry_that_is_no_witness_has_no_route(tmp_path: Path) -> None:
    """The signature of a configured ledger is what counts; where no ledger is configured there is nothing to ask."""
    (tmp_path / "htpasswd").write_text("")
    tables = {"server": {"data": tmp_path / "data"}, "auth": {"htpasswd": tmp_path / "htpasswd"}}
    logs = {"witness_service": {"logs": [str(LOG.key.verifier)]}}
    async with serving_as(Settings.model_validate(tables | logs)) as registry:
        closed = await registry.client.get("/v2/")
        answered = await add(registry, LOG.request(0, 5))
    async with serving_as(Settings.model_validate(tables)) as registry:
        none = await registry.client.post("/witness/add-checkpoint", content=LOG.request(5, 6))

    assert (closed.status_code, answered[0], none.status_code) == (401, 200, 404)


async def test_a_read_only_registry_cosigns_nothing_and_shows_what_it_cosigned(tmp_path: Path) -> None:
    """With read_only nothing is written, also no checkpoint of another ledger."""
    async with witness(tmp_path / "data") as registry:
        await add(registry, LOG.request(0, 5))
    async with witness(tmp_path / "data", read_only=True) as registry:
        refused = await add(registry, LOG.request(5, 6))
        shown = await registry.client.get(SHOWN)

    assert (refused[0], shown.status_code) == (405, 200)


async def test_a_restored_database_does_not_forget_what_was_cosigned(tmp_path: Path) -> None:
    """A data folder from before a cosignature lets no fork in: what was cosigned is not in it."""
    data = tmp_path / "data"
    async with witness(data) as registry:
        await add(registry, LOG.request(0, 3))
    shutil.copytree(data, tmp_path / "backup")
    async with witness(data) as registry:
        await add(registry, LOG.request(3, 9))
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "backup", data)
    async with witness(data) as registry:
        forked = await add(registry, FORK.request(3, 9))
        shown = await registry.client.get(SHOWN)

    assert forked == OLD_DIFFERS
    assert shown.content.startswith(LOG.note(9))


async def test_our_client_understands_our_answers(tmp_path: Path) -> None:
    """The client that asks witnesses reads cosignatures, sizes and refusals of this service, and verifies the cosignature."""
    data = tmp_path / "data"
    async with witness(data) as registry:
        client = WitnessClient(f"{URL}", app=httpx2.ASGITransport(app=registry.app))
        cosigned = await client.add_checkpoint(0, [], LOG.note(5))
        conflict = await client.add_checkpoint(0, [], LOG.note(6))
        refused = await client.add_checkpoint(5, [], FORK.note(5))
        shown = await client.latest(LOG.key.name)
        await client.aclose()
    printed = program.call("ledger", "key", "--cosigner", "--data", data)
    key = VerifierKey.parse(printed.out.strip())

    assert isinstance(cosigned, Cosigned)
    assert conflict == SizeConflict(5)
    assert isinstance(refused, ProofRefused)
    assert shown == LOG.note(5) + cosigned.lines
    assert [one.witness for one in open_checkpoint(shown, LOG.key.verifier, [key]).cosignatures] == [key.name]
    assert key.name == "localhost:5000/witness"


@pytest.mark.files_only("the commands of the page name only a data folder")
async def test_the_commands_of_the_page_print_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first start there is no key of cosignatures; afterwards the commands of docs/operations/witness.md print both keys."""
    data = tmp_path / "data"
    monkeypatch.chdir(tmp_path)
    commands = [line.split()[1:] for line in typed_lines(text("docs/operations/witness.md")) if line]
    prepare(settings(data))
    without = [program.call(*words) for words in commands]
    async with witness(data):
        pass
    printed = [program.call(*words) for words in commands]
    both = program.call("ledger", "key", "--cosigner", "--observations", "--data", data)

    assert [one.code for one in without] == [0, 1]
    assert [VerifierKey.parse(one.out.strip()).type for one in printed] == [ED25519, COSIGNATURE]
    assert both.code == 2


# Two registries that vouch for each other


@dataclass
class Other(httpx2.AsyncBaseTransport):
    """A connection to another registry, which may not run."""

    app: App | None = None
    asked: list[str] = field(default_factory=list)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if self.app is None:
            raise httpx2.ConnectError("refused")
        return await httpx2.ASGITransport(app=self.app).handle_async_request(request)


@dataclass
class Pair:
    """Two registries, each the witness of the other."""

    settings: tuple[Settings, Settings]
    to: tuple[Other, Other] = field(default_factory=lambda: (Other(), Other()))

    @asynccontextmanager
    async def running(self, at: int) -> AsyncIterator[Serving]:
        """Run one of them, which asks the other."""
        async with serving_as(self.settings[at], witness_app=self.to[1 - at]) as registry:
            self.to[at].app = registry.app
            try:
                yield registry
            finally:
                self.to[at].app = None


def keys_of(data: Path, name: str) -> VerifierKey:
    key = LedgerKeys(data.with_name(f"{data.name}.keys"), name=name).key()
    assert key is not None
    return key.verifier


async def introduced(tmp_path: Path) -> Pair:
    """Start each registry alone, as its operator does to get the keys for the other one, and return the pair."""
    folders = (tmp_path / "one" / "data", tmp_path / "two" / "data")
    origins = ("one.example.com", "two.example.com")
    made = []
    for data, origin in zip(folders, origins, strict=True):
        data.parent.mkdir()
        alone = settings(data, LOG.key.verifier, public_url=f"https://{origin}")
        prepare(alone)
        async with serving_as(alone):
            made.append((keys_of(data, "ledger"), keys_of(data, KEY_NAME)))
    return Pair(
        (
            settings(folders[0], made[1][0], witness=made[1][1], public_url="https://one.example.com"),
            settings(folders[1], made[0][0], witness=made[0][1], public_url="https://two.example.com"),
        )
    )


async def cosigned(registry: Serving, by: VerifierKey, entries: int) -> None:
    """Wait until the witness has cosigned the registry's checkpoint of so many entries."""

    async def has() -> bool:
        answer = await registry.client.get("/ledger/checkpoint")
        key = keys_of(registry.data, "ledger")
        found = open_checkpoint(answer.content, key, [by])
        return found.checkpoint.size >= entries and bool(found.cosignatures)

    await until_answer(has, f"{entries} entries are cosigned")


async def agreed_and_pushed(registry: Serving, tag: str) -> None:
    """Wait until the registry takes pushes, which it does when the other one agrees, and push an image."""

    async def ready() -> bool:
        return (await registry.client.get("/readyz")).status_code == 200

    await until_answer(ready, "the registry is ready, because the other one agrees")
    await images.push(registry.client, "shop/app", tag, images.image("app"))


@pytest.mark.slow
async def test_two_registries_vouch_for_each_other(tmp_path: Path) -> None:
    """Each cosigns the other's checkpoints; started at the same time after a stop of both, both take pushes again."""
    pair = await introduced(tmp_path)
    folders = [each.server.data for each in pair.settings]
    for number in range(2):
        async with pair.running(0) as one, pair.running(1) as two:
            for registry, other in ((one, folders[1]), (two, folders[0])):
                await agreed_and_pushed(registry, f"1.0.{number}")
                await cosigned(registry, keys_of(other, KEY_NAME), 2 + number)


@pytest.mark.slow
@pytest.mark.files_only("puts back the files of data and keys")
async def test_a_registry_that_was_set_back_is_refused_and_cosigns_nothing(tmp_path: Path) -> None:
    """A machine that is an old copy, keys included, is recognised by the other registry: it takes no push, and vouches for no ledger."""
    pair = await introduced(tmp_path)
    first = tmp_path / "one"
    async with pair.running(0) as one, pair.running(1) as two:
        await agreed_and_pushed(one, "1.0.0")
        await until_signed(two.client, 1)
    shutil.copytree(first, tmp_path / "old")
    async with pair.running(0) as one, pair.running(1):
        await agreed_and_pushed(one, "2.0.0")
        await cosigned(one, keys_of(tmp_path / "two" / "data", KEY_NAME), 3)
    shutil.rmtree(first)
    shutil.copytree(tmp_path / "old", first)
    async with pair.running(1) as two:
        note = (await two.client.get("/ledger/checkpoint")).content
        size = open_checkpoint(note, keys_of(two.data, "ledger")).checkpoint.size
        async with pair.running(0) as one:
            refused = await images.put(one.client, "shop/app", "2.0.0", images.image("another"))
            client = WitnessClient(URL, app=pair.to[0])
            with pytest.raises(Unavailable, match="503"):
                await client.add_checkpoint(size, [], note)
            await client.aclose()

    assert refused.status_code == 503
    assert "it is an old copy" in refused.text
