"""A registry's ledger checked against the key in a project's lock file."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.ledger_trust import (
    KeyDiffers,
    LedgerCheck,
    LedgerUnchecked,
    LedgerWatch,
    NotTrusted,
    TrustStatus,
    give_key,
)
from boltseal.client.state import ClientState
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.ledger.note import VerifierKey
from tests.fakes.ledger import FakeLedger, signing_key

pytestmark = pytest.mark.usefixtures("two_attempts")

HOST = "reg.example:5000"
KEY, OTHER = signing_key().verifier, signing_key("o").verifier


@pytest.fixture
def state(tmp_path: Path) -> ClientState:
    return ClientState(tmp_path / "state")


@pytest.fixture
def ledger() -> FakeLedger:
    ledger = FakeLedger()
    ledger.push("1.0.0", "1.0.1")
    return ledger


async def follow(
    ledger: FakeLedger, state: ClientState, named: VerifierKey | None = KEY, *, strict: bool = False
) -> LedgerCheck:
    transport = ledger.transport()
    try:
        return await LedgerWatch(state, transport, lambda: 1_000_000, strict=strict).follow(HOST, named)
    finally:
        await transport.aclose()


async def test_on_a_new_machine_the_lock_key_is_trusted_for_the_project(ledger: FakeLedger, state: ClientState) -> None:
    """On a new machine the lock's key is trusted for this project only, and not saved."""
    found = await follow(ledger, state)
    known = state.known(HOST)

    assert (found.status, found.named, found.given) == (TrustStatus.FIRST_USE, KEY, False)
    assert known is not None
    assert (known.how, known.trusted.key) == ("first use", None)
    assert (await follow(ledger, state)).named == KEY


async def test_strict_does_not_accept_the_lock_key_as_pinned(ledger: FakeLedger, state: ClientState) -> None:
    """With --strict the lock's key does not count as pinned; the error names the key and the remedy."""
    with pytest.raises(NotTrusted, match=r"boltseal ledger trust .*the project's lock names"):
        await follow(ledger, state, strict=True)
    await follow(ledger, state)
    with pytest.raises(NotTrusted):
        await follow(ledger, state, strict=True)
    give_key(state, HOST, KEY, 1)

    assert (await follow(ledger, state, strict=True)).named == KEY


@pytest.mark.parametrize("how", ["new", "first use", "given"])
async def test_a_lock_key_that_did_not_sign_is_refused(ledger: FakeLedger, state: ClientState, how: str) -> None:
    """A ledger that the lock's key did not sign is refused, whatever key this machine has."""
    if how == "first use":
        await follow(ledger, state, None)
    if how == "given":
        give_key(state, HOST, KEY, 1)
    with pytest.raises(KeyDiffers, match="signed by another key that is not a successor by rotation"):
        await follow(ledger, state, OTHER)


async def test_another_ledger_than_the_locks_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A ledger with another origin than the lock's, as of another server at the address, is refused."""
    with pytest.raises(KeyDiffers, match=r'serves the ledger "reg\.example"'):
        await follow(ledger, state, signing_key(origin="other.example").verifier)


@pytest.mark.parametrize("known", [False, True])
async def test_an_old_lock_key_is_resolved_to_the_current_one(
    ledger: FakeLedger, state: ClientState, known: bool
) -> None:
    """The key in a lock from before a rotation is valid, and the current key is returned."""
    if known:
        await follow(ledger, state)
    ledger.rotate("n")
    ledger.push("2.0.0")
    found = await follow(ledger, state)
    kept = state.known(HOST)

    assert found.named == ledger.key.verifier
    assert kept is not None
    assert kept.trusted.key is None
    assert kept.trusted.key_id == ledger.key.verifier.key_id


async def test_without_the_locks_key_a_rotation_after_a_first_use_is_not_followed(
    ledger: FakeLedger, state: ClientState
) -> None:
    """Without the lock's key, or with another ledger's, a rotation after a first use is refused."""
    await follow(ledger, state, None)
    ledger.rotate("n")
    for named in (None, OTHER):
        with pytest.raises(LedgerBroken) as broken:
            await follow(ledger, state, named)

        assert broken.value.fault is Fault.UNKNOWN_KEY


async def test_a_rotation_that_is_not_in_the_ledger_is_refused(ledger: FakeLedger, state: ClientState) -> None:
    """A rotation with a receipt of the old key is refused if the tree lacks its entry."""
    other = ledger.copy()
    other.rotate("n")
    ledger.push("2.0.0")
    ledger.receipts, ledger.key = other.receipts, other.key
    with pytest.raises(KeyDiffers):
        await follow(ledger, state)


async def test_a_missing_ledger_is_an_error_if_the_lock_names_a_key(ledger: FakeLedger, state: ClientState) -> None:
    """If the lock names a key, a missing ledger is an error, even if none was found within the last day."""
    ledger.status = 404
    assert (await follow(ledger, state, None)).status is TrustStatus.NO_LEDGER
    for status in (404, 500):
        ledger.status = status
        with pytest.raises(LedgerUnchecked, match="the project's lock names the key of one"):
            await follow(ledger, state)


async def test_withheld_rotations_leave_the_key_unchecked(ledger: FakeLedger, state: ClientState) -> None:
    """If the registry withholds the rotation entries, the key could not be checked."""
    ledger.rotate("n")
    ledger.statuses = {"rotations": [500, 500]}
    with pytest.raises(LedgerUnchecked, match="can't check now"):
        await follow(ledger, state)
