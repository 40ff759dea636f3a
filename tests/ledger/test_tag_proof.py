"""What the entries that a registry shows of a tag prove."""

from __future__ import annotations

import pytest

from boltseal.ledger.checkpoint import Checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.ledger.merkle import inclusion_path, leaf_hash, prove
from boltseal.ledger.tag_proof import (
    Freshness,
    ProvenState,
    ProvenTag,
    ShownEntry,
    TagAnswer,
    TagProofInvalid,
    mentions,
    prove_tag,
    seals,
)
from boltseal.ledger.tiles import Tiles, grow
from tests.fakes.ledger import A, B, FakeLedger

SHOP, TAG = "shop/app", "1.4.2"


def head(ledger: FakeLedger) -> Checkpoint:
    grown = grow(0, {}, [leaf_hash(line) for line in ledger.entries])
    return Checkpoint("reg.example", grown.size, grown.root)


def shown(ledger: FakeLedger, *indices: int) -> list[ShownEntry]:
    size = len(ledger.entries)
    tiles = Tiles(size, grow(0, {}, [leaf_hash(line) for line in ledger.entries]).tiles)
    return [
        ShownEntry(index, ledger.entries[index], prove(inclusion_path(index, size), tiles.node)) for index in indices
    ]


def proven(ledger: FakeLedger, answer: TagAnswer, *indices: int, tag: str = TAG, observed: bool = False) -> ProvenTag:
    return prove_tag(SHOP, tag, answer, shown(ledger, *indices), head(ledger), observed=observed)


def sealed() -> FakeLedger:
    """Entry 1 creates 1.4.2 at A as mutable, and entry 2 seals it there."""
    ledger = FakeLedger()
    ledger.push(TAG, mode="floating")
    ledger.add(EntryKind.TAG_SEALED, A)
    return ledger


def test_a_sealed_tag_is_proven_by_the_entry_that_sealed_it() -> None:
    """The sealing entry proves a sealed tag, without freshness and whatever later entries change its protection."""
    ledger = sealed()
    ledger.add(EntryKind.TAG_UNSEALED, A)
    found = proven(ledger, TagAnswer(A), 2, 3)

    assert (found.state, found.digest, found.entry, found.freshness) == (ProvenState.SEALED, A, 2, None)


@pytest.mark.parametrize(("later", "freshness"), [(0, Freshness.PROVEN), (1, Freshness.NOT_PROVEN)])
def test_a_mutable_tag_is_fresh_only_if_no_entry_follows(later: int, freshness: Freshness) -> None:
    """A mutable tag is proven fresh only if its entry is the last one under the checkpoint."""
    ledger = FakeLedger()
    ledger.push("latest", mode="floating")
    ledger.push(*["other"] * later)
    found = proven(ledger, TagAnswer(A), 1, tag="latest")

    assert (found.state, found.entry, found.freshness) == (ProvenState.MUTABLE, 1, freshness)


def test_an_observation_proves_the_tag_of_an_upstream() -> None:
    """An entry of kind `observed` proves a tag in the log of observations, and nothing in the ledger."""
    ledger = FakeLedger()
    ledger.add(EntryKind.OBSERVED, A, extra={})

    assert proven(ledger, TagAnswer(A), 1, observed=True).state is ProvenState.OBSERVED
    with pytest.raises(TagProofInvalid):
        proven(ledger, TagAnswer(A), 1)


def test_a_tag_without_entries_is_absent_or_a_contradiction() -> None:
    """A tag without entries is proven absent; an answer with a digest or a tombstone contradicts the ledger."""
    ledger = sealed()

    assert proven(ledger, TagAnswer(""), tag="2.0.0").state is ProvenState.ABSENT
    for answer in (TagAnswer(A), TagAnswer("", tombstone=A)):
        with pytest.raises(LedgerBroken):
            proven(ledger, answer, tag="2.0.0")


def test_a_deleted_sealed_tag_keeps_its_digest_as_a_tombstone() -> None:
    """A deleted sealed tag without a tombstone contradicts the ledger, because another image could take the tag."""
    ledger = sealed()
    ledger.add(EntryKind.TAG_DELETED, A, extra={})

    assert proven(ledger, TagAnswer("", tombstone=A), 2, 3).state is ProvenState.DELETED
    with pytest.raises(LedgerBroken, match="keeps no digest"):
        proven(ledger, TagAnswer(""), 2, 3)
    with pytest.raises(LedgerBroken, match="its last entry 3 says nothing"):
        proven(ledger, TagAnswer(A), 2, 3)


def test_a_second_digest_of_a_sealed_tag_is_a_contradiction() -> None:
    """A second digest of a sealed tag contradicts the ledger, in the registry's answer or in a later entry."""
    ledger = sealed()
    with pytest.raises(LedgerBroken) as by_answer:
        proven(ledger, TagAnswer(B), 2)
    ledger.push(TAG, digest=B)
    with pytest.raises(LedgerBroken) as by_entry:
        proven(ledger, TagAnswer(A), 2, 3)

    assert by_answer.value.fault is by_entry.value.fault is Fault.SECOND_DIGEST


def test_two_entries_of_which_the_first_did_not_seal_prove_nothing() -> None:
    """Two shown entries prove nothing if the first of them did not seal the tag."""
    ledger = sealed()
    with pytest.raises(TagProofInvalid, match="did not seal"):
        proven(ledger, TagAnswer(A), 1, 2)


@pytest.mark.parametrize("indices", [(1, 2, 3), (2, 1), (2, 2), (-1,), (4,)])
def test_too_many_entries_or_wrong_indices_prove_nothing(indices: tuple[int, ...]) -> None:
    """A registry may show at most two entries, in rising order and under the checkpoint."""
    ledger = sealed()
    entries = [ShownEntry(index, ledger.entries[1], ()) for index in indices]
    with pytest.raises(TagProofInvalid, match="rising order"):
        prove_tag(SHOP, TAG, TagAnswer(A), entries, head(ledger))


def test_a_line_that_is_no_entry_proves_nothing() -> None:
    """A line that can't be parsed is refused before its proof is checked, and prevents a proof of freshness."""
    ledger = sealed()
    with pytest.raises(TagProofInvalid, match="not in the signed ledger"):
        prove_tag(SHOP, TAG, TagAnswer(A), [ShownEntry(1, b"{}\n", ())], head(ledger))

    assert mentions(b"{}\n", SHOP, TAG)


def test_the_tag_of_a_line_is_found() -> None:
    """An encoded entry is recognized as one about a tag by repository and tag, whatever its kind."""
    ledger = sealed()

    assert [mentions(line, SHOP, TAG) for line in ledger.entries] == [False, True, True]
    assert [seals(line) for line in ledger.entries] == [False, False, True]


def test_a_reason_can_not_look_like_a_seal() -> None:
    """A reason that contains the text of a sealed mode does not make an encoded entry a sealing one."""
    ledger = FakeLedger()
    ledger.add(EntryKind.TAG_MOVED, A, reason='"mode":"sealed"', extra={"mode": "floating"})

    assert not seals(ledger.entries[1])
