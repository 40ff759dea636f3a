"""A registry's ledger compared with its stored checkpoint."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from boltseal.client.ledger_trust import (
    LedgerCheck,
    LedgerUnchecked,
    LedgerWatch,
    NotTrusted,
    OtherKeyTrusted,
    TrustStatus,
    give_key,
)
from boltseal.client.state import ClientState, StateChanged, StateUnusable
from boltseal.ledger.follow import Fault, LedgerBroken
from tests.fakes.ledger import FakeLedger, signing_key

pytestmark = pytest.mark.usefixtures("two_attempts")

HOST = "reg.example:5000"
KEY = signing_key().verifier
DAY_S = 24 * 3600


@pytest.fixture
def state(tmp_path: Path) -> ClientState:
    return ClientState(tmp_path / "state")


@pytest.fixture
def ledger() -> FakeLedger:
    ledger = FakeLedger()
    ledger.push("1.0.0", "1.0.1", "1.0.2")
    return ledger


async def follow(
    ledger: FakeLedger, state: ClientState, *, strict: bool = False, now_s: int = 1_000_000
) -> LedgerCheck:
    transport = ledger.transport()
    try:
        return await LedgerWatch(state, transport, lambda: now_s, strict=strict).follow(HOST)
    finally:
        await transport.aclose()


async def test_a_ledger_seen_first_is_saved_as_first_use(ledger: FakeLedger, state: ClientState) -> None:
    """The first checkpoint of a ledger is saved as "first use", with an unverified key."""
    found = await follow(ledger, state)
    known = state.known(HOST)

    assert (found.status, found.given) == (TrustStatus.FIRST_USE, False)
    assert known is not None
    assert (known.how, known.trusted.key, known.head) == ("first use", None, found.head)


async def test_strict_refuses_a_ledger_without_a_pinned_key(ledger: FakeLedger, state: ClientState) -> None:
    """With --strict a ledger without a pinned key is refused, at first use and later."""
    with pytest.raises(NotTrusted, match="boltseal ledger trust"):
        await follow(ledger, state, strict=True)
    await follow(ledger, state)
    with pytest.raises(NotTrusted):
        await follow(ledger, state, strict=True)


@pytest.mark.parametrize("given", [False, True])
async def test_a_ledger_that_only_grows_is_followed(ledger: FakeLedger, state: ClientState, given: bool) -> None:
    """An unchanged ledger costs one request; hashes are fetched only if it has grown."""
    if given:
        give_key(state, HOST, KEY, 1)
    found = [await follow(ledger, state)]
    ledger.counted.clear()
    found.append(await follow(ledger, state))
    asked_at_rest = dict(ledger.counted)
    ledger.push(*(f"2.0.{number}" for number in range(300)))
    found.append(await follow(ledger, state))

    assert [one.status for one in found[1:]] == [TrustStatus.UNCHANGED, TrustStatus.GROWN]
    assert asked_at_rest == {"checkpoint": 1}
    assert found[2].given is given
    assert found[2].head is not None
    assert found[2].head.checkpoint.size == 304


async def test_a_registry_without_a_ledger_is_asked_once_a_day(ledger: FakeLedger, state: ClientState) -> None:
    """A registry without a ledger, which is no error, is asked for one once a day."""
    ledger.status = 404
    found = [await follow(ledger, state, now_s=now_s) for now_s in (DAY_S, DAY_S + 5, 2 * DAY_S - 1)]
    ledger.status = 200
    later = await follow(ledger, state, now_s=2 * DAY_S)

    assert [one.status for one in found] == [TrustStatus.NO_LEDGER] * 3
    assert ledger.counted["checkpoint"] == 2
    assert later.status is TrustStatus.FIRST_USE


async def test_an_html_page_is_no_ledger(ledger: FakeLedger, state: ClientState) -> None:
    """An HTML page in place of a checkpoint means that there is no ledger."""
    ledger.checkpoint = b"<!doctype html>"

    assert (await follow(ledger, state)).status is TrustStatus.NO_LEDGER


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_an_unknown_registry_that_does_not_answer_is_no_error(
    ledger: FakeLedger, state: ClientState, status: int
) -> None:
    """If an unknown registry does not answer, no ledger is expected, and the next check asks again."""
    ledger.status = status
    found = [await follow(ledger, state), await follow(ledger, state)]

    assert [one.status for one in found] == [TrustStatus.NOT_SEEN] * 2
    assert all(str(status) in one.not_seen for one in found)
    assert ledger.counted["checkpoint"] == 2


@pytest.mark.parametrize("status", [401, 404, 503])
@pytest.mark.parametrize("given", [False, True])
async def test_a_known_ledger_that_is_missing_could_not_be_checked(
    ledger: FakeLedger, state: ClientState, status: int, given: bool
) -> None:
    """A known ledger that is missing, even by 404, could not be checked, so a registry can't drop it."""
    if given:
        give_key(state, HOST, KEY, 1)
    else:
        await follow(ledger, state)
    ledger.status = status
    with pytest.raises(LedgerUnchecked, match="can't be checked"):
        await follow(ledger, state)


async def test_withheld_hashes_leave_the_ledger_unchecked(ledger: FakeLedger, state: ClientState) -> None:
    """A newer checkpoint without a consistency proof is not saved, and the ledger could not be checked."""
    await follow(ledger, state)
    before = state.known(HOST)
    shown = ledger.copy()
    shown.push("1.0.3")
    ledger.checkpoint = shown.note()
    with pytest.raises(LedgerUnchecked, match="tile/0"):
        await follow(ledger, state)

    assert state.known(HOST) == before


async def test_a_contradiction_is_saved_as_evidence_and_replaces_nothing(
    ledger: FakeLedger, state: ClientState
) -> None:
    """A contradiction is saved once as evidence with both checkpoints, the key and the failed proof."""
    give_key(state, HOST, KEY, 1)
    await follow(ledger, state)
    before = state.known(HOST)
    lie = ledger.copy()
    lie.entries[2] = lie.entries[1]
    lie.push("1.0.3")
    for _ in range(2):
        with pytest.raises(LedgerBroken) as broken:
            await follow(lie, state)
    (folder,) = (state.folder / "evidence").iterdir()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert broken.value.fault is Fault.REWRITTEN
    assert str(folder) in broken.value.message
    assert kept["before.checkpoint"] == ledger.note()
    assert kept["now.checkpoint"] == lie.note()
    assert kept["trusted.key"].decode().strip() == str(KEY)
    assert kept["proof.txt"]
    assert state.known(HOST) == before


async def test_a_rotated_key_replaces_the_trusted_one(ledger: FakeLedger, state: ClientState) -> None:
    """A proven key rotation is saved, and not proven again."""
    give_key(state, HOST, KEY, 1)
    await follow(ledger, state)
    ledger.rotate("m")
    ledger.rotate("n")
    ledger.push("1.0.3")
    found = [await follow(ledger, state), await follow(ledger, state)]
    known = state.known(HOST)

    assert [one.status for one in found] == [TrustStatus.ROTATED, TrustStatus.UNCHANGED]
    assert known is not None
    assert (known.trusted.key, known.how) == (signing_key("n").verifier, "given")


async def test_a_rotation_after_the_end_of_the_ledger_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A rotation entry beyond the ledger's end is refused, because it is proven in another tree."""
    give_key(state, HOST, KEY, 1)
    ledger.rotate("m")
    ledger.shown = 4
    with pytest.raises(LedgerBroken) as broken:
        await follow(ledger, state)

    assert broken.value.fault is Fault.REWRITTEN


def test_a_trusted_key_is_replaced_only_with_replace(state: ClientState) -> None:
    """A pinned key is replaced only with --replace, so a mistyped command can't end the trust."""
    give_key(state, HOST, KEY, 1)
    other = signing_key("z").verifier
    with pytest.raises(OtherKeyTrusted, match="--replace"):
        give_key(state, HOST, other, 2)
    again = give_key(state, HOST, KEY, 2)
    replaced = give_key(state, HOST, other, 3, replace=True)

    assert (again.since_s, replaced.trusted.key) == (1, other)
    assert state.known(HOST) == replaced


async def test_a_pinned_key_is_compared_with_the_first_use(ledger: FakeLedger, state: ClientState) -> None:
    """If a pinned key differs from the first use, the error leaves the decision to the user."""
    await follow(ledger, state)
    with pytest.raises(LedgerBroken, match="first use"):
        give_key(state, HOST, signing_key("z").verifier, 2)
    known = give_key(state, HOST, KEY, 2)

    assert known.head is not None
    assert (known.head.raw, known.how) == (ledger.note(), "given")
    assert (await follow(ledger, state, strict=True)).status is TrustStatus.UNCHANGED


async def test_a_replaced_checkpoint_is_saved_as_evidence(ledger: FakeLedger, state: ClientState) -> None:
    """A replaced checkpoint is saved as evidence for later."""
    await follow(ledger, state)
    known = give_key(state, HOST, signing_key("z").verifier, 2, replace=True)
    (kept,) = (state.folder / "evidence").rglob("replaced.checkpoint")

    assert known.head is None
    assert kept.read_bytes() == ledger.note()


async def test_two_concurrent_checks_lose_nothing(ledger: FakeLedger, state: ClientState) -> None:
    """Of two concurrent checks, the second compares with what the first saved."""
    await follow(ledger, state)
    ledger.push("1.0.3")
    await asyncio.gather(*(follow(ledger, state) for _ in range(4)))
    known = state.known(HOST)

    assert known is not None
    assert known.head is not None
    assert known.head.checkpoint.size == 5


async def test_a_concurrent_write_is_not_overwritten(ledger: FakeLedger, state: ClientState) -> None:
    """A writer whose state changed meanwhile gets StateChanged."""
    await follow(ledger, state)
    old = state.known(HOST)
    assert old is not None
    give_key(state, HOST, KEY, 2)
    with pytest.raises(StateChanged):
        state.keep(old, old)


def test_known_ledgers_can_be_listed_and_deleted(state: ClientState) -> None:
    """Known ledgers are listed and deleted by registry, whatever characters its name has."""
    hosts = ["[::1]:5000", "docker.io", HOST]
    for host in hosts:
        give_key(state, host, KEY, 1)
    listed = [known.registry for known in state.all()]

    assert sorted(listed) == sorted(hosts)
    assert (state.forget(HOST), state.forget(HOST)) == (True, False)
    assert state.known(HOST) is None


@pytest.mark.parametrize(
    "spelled", ["registry.example", "registry.example:443", "Registry.Example", "REGISTRY.example:443"]
)
@pytest.mark.parametrize("given", ["registry.example", "registry.example:443"])
def test_every_spelling_of_a_registry_has_the_same_key(state: ClientState, given: str, spelled: str) -> None:
    """A reference with the usual port, or in upper case, is no other registry, for which any key would be a first use."""
    give_key(state, given, KEY, 1)
    (known,) = state.all()

    assert state.known(spelled) == msgspec.structs.replace(known, registry=spelled)
    assert state.known("registry.example:5000") is None


@pytest.mark.parametrize("spelled", ["registry.example", "registry.example:443"])
def test_a_file_that_an_earlier_version_named_with_the_port_counts(state: ClientState, spelled: str) -> None:
    """An earlier version kept the trust in a registry with the usual port in a file of its own, which is still read."""
    give_key(state, "registry.example", KEY, 1)
    (file,) = (state.folder / "trust").iterdir()
    file.rename(file.with_name("registry.example%3A443.json"))

    assert state.known(spelled) is not None
    assert state.forget(spelled)
    assert state.known(spelled) is None


def test_the_folder_is_private(state: ClientState) -> None:
    """Other users can't read or write the folder, which decides what is trusted."""
    give_key(state, HOST, KEY, 1)
    modes = {path.stat().st_mode & 0o077 for path in (state.folder, *state.folder.rglob("*")) if path.name != "lock"}

    assert modes == {0}


@pytest.mark.parametrize(
    "damage",
    ["{", '{"origin": 1}', json.dumps({"origin": "a", "key_id": "x", "key": "", "how": "given", "since_s": 0})],
)
def test_an_unreadable_file_is_no_first_use(state: ClientState, damage: str) -> None:
    """A damaged state file is an error and not a first use, which would reset the trust."""
    give_key(state, HOST, KEY, 1)
    (path,) = (state.folder / "trust").iterdir()
    path.write_text(damage)
    with pytest.raises(StateUnusable):
        state.known(HOST)


def test_the_folder_of_a_newer_version_is_not_touched(state: ClientState) -> None:
    """A state folder of a newer version, whose format may differ, is not changed."""
    give_key(state, HOST, KEY, 1)
    (state.folder / "format").write_text("2\n")
    with pytest.raises(StateUnusable, match="newer"):
        state.known(HOST)


async def test_an_unwritable_folder_is_reported(ledger: FakeLedger, tmp_path: Path) -> None:
    """With an unwritable folder a first use continues, since no known state can be lost."""
    (tmp_path / "file").write_text("")
    found = await follow(ledger, ClientState(tmp_path / "file"))

    assert found.status is TrustStatus.FIRST_USE
    assert "can't be written" in found.not_saved
