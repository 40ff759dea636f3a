"""The Merkle tree: RFC 6962's definitions, Go's results, and proofs that can't be forged."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.ledger.merkle import (
    EMPTY_ROOT,
    MerkleNode,
    ProofInvalid,
    consistency_path,
    cover,
    fold,
    inclusion_path,
    leaf_hash,
    prove,
    verify_consistency,
    verify_inclusion,
)
from tests.ledger import tree_oracle

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "tlog.json").read_text())
GO_ENTRIES = [b"entry %d" % index for index in range(600)]

sizes = st.integers(1, 70)


def entries_of(size: int) -> list[bytes]:
    return [b"e%d" % index for index in range(size)]


def inclusion(index: int, entries: list[bytes]) -> tuple[bytes, ...]:
    return prove(inclusion_path(index, len(entries)), lambda node: subtree(node, entries))


def consistency(old: int, entries: list[bytes]) -> tuple[bytes, ...]:
    return prove(consistency_path(old, len(entries)), lambda node: subtree(node, entries))


def subtree(node: MerkleNode, entries: list[bytes]) -> bytes:
    return tree_oracle.mth(entries[node.offset << node.level : (node.offset + 1) << node.level])


def root_of(entries: list[bytes]) -> bytes:
    return fold([subtree(node, entries) for node in cover(0, len(entries))])


def decoded(proof: list[str]) -> tuple[bytes, ...]:
    return tuple(b64decode(one) for one in proof)


def test_a_tree_of_no_entries_has_a_root() -> None:
    """RFC 6962, 2.1: the hash of an empty list is the hash of an empty string."""

    assert root_of([]) == EMPTY_ROOT == tree_oracle.mth([])
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.integers(0, 200))
def test_the_root_is_that_of_the_definition(size: int) -> None:
    """RFC 6962, 2.1: the root of the tree is MTH(D[n])."""

    assert root_of(entries_of(size)) == tree_oracle.mth(entries_of(size))


@given(sizes, st.data())
def test_an_inclusion_proof_is_that_of_the_definition_and_holds(size: int, data: st.DataObject) -> None:
    """RFC 6962, 2.1.1: the inclusion proof is PATH(m, D[n]), and verifies."""
    entries = entries_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion(index, entries)
    verify_inclusion(leaf_hash(entries[index]), index, size, proof, tree_oracle.mth(entries))

    assert list(proof) == tree_oracle.path(index, entries)


@given(sizes, st.data())
def test_a_consistency_proof_is_that_of_the_definition_and_holds(size: int, data: st.DataObject) -> None:
    """RFC 6962, 2.1.2: the consistency proof is PROOF(m, D[n]), and verifies."""
    entries = entries_of(size)
    old = data.draw(st.integers(0, size))
    proof = consistency(old, entries)
    verify_consistency(old, tree_oracle.mth(entries[:old]), size, tree_oracle.mth(entries), proof)

    assert list(proof) == tree_oracle.proof(old, entries)


@given(st.integers(1, 40), st.data())
def test_a_proof_verifies_for_one_entry_at_one_index_in_one_tree(size: int, data: st.DataObject) -> None:
    """A proof does not verify with another entry, index, size, root or hash."""
    entries = entries_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof, leaf, root = list(inclusion(index, entries)), leaf_hash(entries[index]), tree_oracle.mth(entries)
    other_index = data.draw(st.integers(0, size - 1))
    lies = [(leaf_hash(b"lie"), index, size, proof, root), (leaf, index, size, proof, leaf_hash(b"lie"))]
    lies += [(leaf, index, size, [*proof, root], root), (leaf, -1, size, proof, root), (leaf, size, size, proof, root)]
    if other_index != index:
        lies.append((leaf, other_index, size, proof, root))
    for at in range(len(proof)):
        lies.append((leaf, index, size, [*proof[:at], leaf_hash(b"lie"), *proof[at + 1 :]], root))
        lies.append((leaf, index, size, proof[:at] + proof[at + 1 :], root))
        lies.append((leaf, index, size, [*proof[:at], b"short", *proof[at + 1 :]], root))

    for lie in lies:
        with pytest.raises(ProofInvalid):
            verify_inclusion(*lie)


@given(st.integers(2, 40), st.data())
def test_a_fork_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    """If one old entry was rewritten, no change of the proof gives the old root."""
    entries = entries_of(size)
    old = data.draw(st.integers(1, size - 1))
    forked = list(entries)
    forked[data.draw(st.integers(0, old - 1))] = b"lie"
    honest_old, forked_new = tree_oracle.mth(entries[:old]), tree_oracle.mth(forked)

    for proof in (consistency(old, entries), consistency(old, forked)):
        with pytest.raises(ProofInvalid):
            verify_consistency(old, honest_old, size, forked_new, proof)


@pytest.mark.parametrize(
    ("index", "cut", "size", "sentence"),
    [
        (5, slice(0, 3), 5, "entry 5 is not in a tree of 5 entries"),
        (2, slice(1, 3), 5, "a proof of 2 hashes; expected 3"),
        (3, slice(0, 3), 5, "the proof does not lead from entry 3 to the root of the tree of 5 entries"),
    ],
)
def test_the_error_of_an_inclusion_proof_names_the_cause(index: int, cut: slice, size: int, sentence: str) -> None:
    """An invalid inclusion proof has an error with the cause, which the user of a receipt reads."""
    entries = entries_of(5)
    with pytest.raises(ProofInvalid) as caught:
        verify_inclusion(leaf_hash(entries[2]), index, size, inclusion(2, entries)[cut], tree_oracle.mth(entries))

    assert caught.value.message == sentence


@pytest.mark.parametrize(
    ("old", "old_of", "new_of", "sentence"),
    [
        (6, 3, 5, "a tree of 5 entries can't begin with one of 6"),
        (2, 3, 5, "a proof of 4 hashes; expected 2"),
        (3, 5, 5, "the proof does not lead to the root of the old tree of 3 entries"),
        (3, 3, 3, "the proof does not lead to the root of the new tree of 5 entries"),
    ],
)
def test_the_error_of_a_consistency_proof_names_the_cause(old: int, old_of: int, new_of: int, sentence: str) -> None:
    """An invalid consistency proof has an error with the cause, which is shown for a rewritten ledger."""
    entries = entries_of(5)
    old_root, new_root = tree_oracle.mth(entries[:old_of]), tree_oracle.mth(entries[:new_of])
    with pytest.raises(ProofInvalid) as caught:
        verify_consistency(old, old_root, 5, new_root, consistency(3, entries))

    assert caught.value.message == sentence


def test_a_hash_of_another_length_is_refused() -> None:
    """A hash of another length is refused, since bytes could be moved from one hash to the next."""
    entries = entries_of(2)
    with pytest.raises(ProofInvalid, match=r"^a proof with a hash that is not 32 bytes long$"):
        verify_inclusion(leaf_hash(entries[0]), 0, 2, [b""], tree_oracle.mth(entries))


def test_a_tree_is_consistent_with_itself_and_with_nothing_else_of_its_size() -> None:
    """A tree is consistent with itself; two roots for one size are a fork, without any proof."""
    root = tree_oracle.mth(entries_of(5))
    verify_consistency(5, root, 5, root, ())

    with pytest.raises(ProofInvalid):
        verify_consistency(5, root, 5, tree_oracle.mth(entries_of(4)), ())
    with pytest.raises(ProofInvalid):
        verify_consistency(5, root, 5, root, (root,))


def test_every_tree_extends_the_empty_one() -> None:
    """Every tree is consistent with the empty tree, which has one root."""
    root = tree_oracle.mth(entries_of(5))
    verify_consistency(0, EMPTY_ROOT, 5, root, ())
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())

    with pytest.raises(ProofInvalid):
        verify_consistency(0, root, 5, root, ())
    with pytest.raises(ProofInvalid):
        verify_consistency(0, EMPTY_ROOT, 0, root, ())


@pytest.mark.parametrize("size", sorted(map(int, VECTORS["roots"])))
def test_roots_are_those_of_gos_tlog(size: int) -> None:
    """For stored vectors the roots equal those of Go's tlog package."""

    assert root_of(GO_ENTRIES[:size]) == b64decode(VECTORS["roots"][str(size)])


def test_inclusion_proofs_are_those_of_gos_tlog() -> None:
    """Inclusion proofs equal those of Go's tlog package, and those verify here."""
    for vector in VECTORS["inclusions"]:
        size, index, proof = vector["Size"], vector["Index"], decoded(vector["Proof"])
        root = b64decode(VECTORS["roots"][str(size)])
        verify_inclusion(leaf_hash(GO_ENTRIES[index]), index, size, proof, root)

        assert inclusion(index, GO_ENTRIES[:size]) == proof


def test_consistency_proofs_are_those_of_gos_tlog() -> None:
    """Consistency proofs equal those of Go's tlog package, and those verify here."""
    for vector in VECTORS["consistencies"]:
        new, old, proof = vector["New"], vector["Old"], decoded(vector["Proof"])
        roots = [b64decode(VECTORS["roots"][str(size)]) for size in (old, new)]
        verify_consistency(old, roots[0], new, roots[1], proof)

        assert consistency(old, GO_ENTRIES[:new]) == proof
