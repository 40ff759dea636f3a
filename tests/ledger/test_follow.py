"""A client compares a ledger with the stored checkpoint: each contradiction is named, and rotations are followed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.errors import Invalid
from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import (
    Fault,
    LedgerBroken,
    Rotated,
    Trusted,
    check_extension,
    compare_checkpoints,
    first_checkpoint,
    follow_rotations,
    read_checkpoint,
)
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import SigningKey, format_note
from boltseal.ledger.proof import format_receipt, parse_receipt_unverified
from tests.fakes.ledger import ORIGIN, FakeLedger, signing_key
from tests.ledger import tree_oracle

KEY = signing_key()
TRUSTED = Trusted.by(KEY.verifier)
SEEN_ONLY = replace(TRUSTED, key=None)
LINES = [f"line {number}".encode() for number in range(9)]


def head(size: int, origin: str = ORIGIN) -> Checkpoint:
    return Checkpoint(origin, size, tree_oracle.mth(LINES[:size]))


def note(size: int, key: SigningKey = KEY) -> bytes:
    return sign_checkpoint(head(size, key.name), key)


def test_a_first_observation_is_recorded_without_being_trusted() -> None:
    """A first checkpoint is stored with origin, key ID and tree, without trusting a key."""
    seen = first_checkpoint(note(3))

    assert (seen.trusted, seen.checkpoint) == (SEEN_ONLY, head(3))


@pytest.mark.parametrize("raw", [b"<html>", format_note("a page\n", [KEY.sign("a page\n")])])
def test_a_page_is_no_checkpoint(raw: bytes) -> None:
    """A page for people is not a checkpoint."""
    with pytest.raises(Invalid):
        first_checkpoint(raw)


def test_a_checkpoint_without_a_signature_of_its_origin_is_refused() -> None:
    """A checkpoint must have a signature under its own origin, which is the key's name."""
    text = head(3).text()
    with pytest.raises(Invalid, match="not signed in its own name"):
        first_checkpoint(format_note(text, [signing_key("k", "other.example").sign(text)]))


@pytest.mark.parametrize("trusted", [TRUSTED, SEEN_ONLY])
def test_a_checkpoint_of_the_expected_key_is_accepted(trusted: Trusted) -> None:
    """A checkpoint of the expected key is accepted: by the key, or at first use by its ID."""
    found = read_checkpoint(note(3), trusted)

    assert found is not None
    assert (found.checkpoint, found.trusted, found.raw) == (head(3), trusted, note(3))


def test_a_known_ledger_without_a_checkpoint_is_an_error() -> None:
    """After a checkpoint was seen, other content in its place is an error."""
    with pytest.raises(LedgerBroken) as broken:
        read_checkpoint(b"gone", TRUSTED)

    assert broken.value.fault is Fault.NO_CHECKPOINT


def test_a_checkpoint_of_another_ledger_is_refused() -> None:
    """A checkpoint of another ledger is refused, however well it is signed."""
    with pytest.raises(LedgerBroken, match="--replace") as broken:
        read_checkpoint(note(3, signing_key("k", "other.example")), TRUSTED)

    assert broken.value.fault is Fault.OTHER_LEDGER


def test_a_signature_with_only_the_keys_id_is_refused() -> None:
    """If the key is known, a signature that only has its four-byte ID is refused."""
    forged = note(3).replace(b"\n3\n", b"\n4\n")
    with pytest.raises(LedgerBroken) as broken:
        read_checkpoint(forged, TRUSTED)

    assert broken.value.fault is Fault.UNKNOWN_KEY


def test_another_keys_checkpoint_needs_a_rotation() -> None:
    """A checkpoint of another key needs a rotation, and is no contradiction yet."""
    assert read_checkpoint(note(3, signing_key("z")), TRUSTED) is None


def rotated_twice() -> FakeLedger:
    ledger = FakeLedger()
    ledger.push("1.0.0")
    ledger.rotate("m")
    ledger.push("1.0.1")
    ledger.rotate("n")
    return ledger


def test_keys_are_followed_from_one_to_the_next() -> None:
    """Keys are followed as each signs the entry that names its successor; those entries remain to be proven."""
    ledger = rotated_twice()
    found, rotated = follow_rotations(ledger.note(), TRUSTED, ledger.receipts[::-1])

    assert found.trusted == Trusted.by(signing_key("n").verifier)
    assert rotated == tuple(Rotated(index, leaf_hash(ledger.entries[index])) for index in (2, 4))


def test_an_unused_rotation_does_not_hide_another() -> None:
    """A rotation to a key that never signed does not hide a rotation to the one that does."""
    ledger = FakeLedger()
    ledger.rotate("x")
    ledger.key = KEY
    ledger.rotate("m")
    found, _ = follow_rotations(ledger.note(), TRUSTED, [*ledger.receipts, ledger.receipts[0]])

    assert found.trusted.key == signing_key("m").verifier


def test_an_entry_that_is_no_rotation_is_refused() -> None:
    """A rotation must be an entry about a key, signed by a key of this ledger."""
    for kind, name in ((EntryKind.RULES_CHANGED, ORIGIN), (EntryKind.KEY_ROTATED, "other.example")):
        ledger = FakeLedger()
        key = signing_key("m", name)
        index = ledger.add(kind, tag="", repository="", extra={"key": str(key.verifier)})
        receipts = [ledger.receipt(index), ledger.receipt(0), b"no receipt"]
        ledger.key = signing_key("m")
        with pytest.raises(LedgerBroken) as broken:
            follow_rotations(ledger.note(), TRUSTED, receipts)

        assert broken.value.fault is Fault.UNKNOWN_KEY


def test_a_rotation_before_its_signers_is_refused() -> None:
    """A key's rotation entry must come after the entry that named that key."""
    ledger = rotated_twice()
    old = parse_receipt_unverified(ledger.receipts[1])
    early = FakeLedger(key=signing_key("m"))
    index = early.add(EntryKind.KEY_ROTATED, tag="", repository="", extra={"key": str(signing_key("n").verifier)})
    with pytest.raises(LedgerBroken):
        follow_rotations(ledger.note(), TRUSTED, [ledger.receipts[0], early.receipt(index)])

    assert follow_rotations(ledger.note(), TRUSTED, [ledger.receipts[0], format_receipt(old)])


def test_without_a_key_no_rotation_is_followed() -> None:
    """At first use no rotation is followed, because no trusted key exists."""
    ledger = rotated_twice()
    with pytest.raises(LedgerBroken, match="first use") as broken:
        follow_rotations(ledger.note(), SEEN_ONLY, ledger.receipts)

    assert broken.value.fault is Fault.UNKNOWN_KEY
    assert "`boltseal ledger trust HOST KEY --replace`" in broken.value.message


def test_a_ledger_that_grew_or_is_unchanged_is_compared_by_its_tree() -> None:
    """A ledger that grew or is unchanged is compared by its tree."""
    compare_checkpoints(head(4), head(4))
    compare_checkpoints(head(4), head(5))
    check_extension(head(4), head(9), tree_oracle.proof(4, LINES), {})


@pytest.mark.parametrize(
    ("now", "fault"), [(head(3), Fault.SHRUNK), (replace(head(4), root=head(3).root), Fault.FORKED)]
)
def test_a_truncated_or_forked_ledger_is_reported(now: Checkpoint, fault: Fault) -> None:
    """A ledger with fewer entries, or as many and others, is reported as truncated or forked."""
    with pytest.raises(LedgerBroken) as broken:
        compare_checkpoints(head(4), now)

    assert broken.value.fault is fault


def test_a_rewritten_ledger_is_reported() -> None:
    """A ledger that does not begin with the stored tree is reported as rewritten."""
    seen = replace(head(4), root=head(3).root)
    with pytest.raises(LedgerBroken) as broken:
        check_extension(seen, head(9), tree_oracle.proof(4, LINES), {})

    assert broken.value.fault is Fault.REWRITTEN


def test_a_rotation_that_is_not_in_the_ledger_is_reported() -> None:
    """A rotation entry signed by an old key is refused unless the tree has it."""
    there, missing = Rotated(5, leaf_hash(LINES[5])), Rotated(5, leaf_hash(b"another line"))
    check_extension(head(4), head(9), tree_oracle.proof(4, LINES), {there: tree_oracle.path(5, LINES)})
    with pytest.raises(LedgerBroken) as broken:
        check_extension(head(4), head(9), tree_oracle.proof(4, LINES), {missing: tree_oracle.path(5, LINES)})

    assert broken.value.fault is Fault.REWRITTEN
