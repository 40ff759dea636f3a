"""The Merkle tree over the ledger's entries: hashes, proofs and their verification (RFC 6962, section 2.1; RFC 9162, 2.1).

    leaf   SHA-256(0x00 || entry)
    node   SHA-256(0x01 || left || right)
    root   of no entries: SHA-256(""); of n: split at the largest power of two below n, hash both sides, then the node

A subtree over 2^level entries that starts at a multiple of 2^level never changes once it is full. A `MerkleNode` identifies such
a subtree. All functions work on nodes: the nodes of a range of entries (`cover`), the ranges of a proof (`inclusion_path`,
`consistency_path`), and the hash of a range (`fold`). Callers that store nodes first ask which nodes are needed, read
them, and then compute.

Verification needs only the proof: `verify_inclusion`, `verify_consistency`. `tiles` stores nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from boltseal.errors import Invalid

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class ProofInvalid(Invalid):
    """A proof does not match the hashes that it should prove."""


class MerkleNode(NamedTuple):
    """The subtree over the entries [offset << level, (offset + 1) << level)."""

    level: int
    offset: int


Range = tuple[MerkleNode, ...]
"""Neighbouring nodes from left to right, each smaller than the one before it: what one hash of a proof covers."""

Path = tuple[Range, ...]
"""What the hashes of a proof cover, in order."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the leaf hash of an entry's bytes."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two neighbouring subtrees."""
    return sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of a range from the hashes of its nodes; EMPTY_ROOT for an empty range."""
    if not hashes:
        return EMPTY_ROOT
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def cover(start: int, end: int) -> Range:
    """Return the nodes that make up the entries [start, end), as the tree splits them.

    `start` must be a multiple of a power of two that is at least the length, as it is wherever a tree splits.
    """
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(MerkleNode(level, start >> level))
        start += 1 << level
    return tuple(nodes)


def inclusion_path(index: int, size: int) -> Path:
    """Return the siblings from the entry `index` up to the root of the tree over `size` entries (RFC 6962, 2.1.1)."""
    return tuple(cover(step.start, step.end) for step in _steps_to_entry(index, size))


def consistency_path(old_size: int, new_size: int) -> Path:
    """Return the ranges of a proof that the tree over `new_size` entries begins with the one over `old_size` (RFC 6962, 2.1.2)."""
    seam, steps = _steps_to_seam(old_size, new_size)
    path = tuple(cover(step.start, step.end) for step in steps)
    return path if seam is None else (cover(*seam), *path)


def prove(path: Path, node: Callable[[MerkleNode], bytes]) -> tuple[bytes, ...]:
    """Return the hashes of a proof. `node` returns the hash of each subtree of the path."""
    return tuple(fold([node(one) for one in part]) for part in path)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that a leaf hash is entry `index` of the tree over `size` entries with this root. Raises: ProofInvalid.

    `size` and `root` must come from one checkpoint: a proof does not show that a root belongs to a size.
    """
    steps = _steps_to_entry(index, size)
    _check_hashes(proof, len(steps))
    for step, sibling in zip(steps, proof, strict=True):
        leaf = node_hash(sibling, leaf) if step.left else node_hash(leaf, sibling)
    if leaf != root:
        raise ProofInvalid(f"the proof does not lead from entry {index} to the root of the tree of {size} entries")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Verify that the new tree begins with the old one. Raises: ProofInvalid.

    Each size and its root must come from one checkpoint.
    """
    seam, steps = _steps_to_seam(old_size, new_size)
    _check_hashes(proof, len(steps) + (seam is not None))
    if old_size == 0:
        old, new = EMPTY_ROOT, new_root if new_size else EMPTY_ROOT  # no entries say nothing about what follows them
    else:
        old = new = old_root if seam is None else proof[0]
    for step, sibling in zip(steps, proof[seam is not None :], strict=True):
        if step.left:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    if old != old_root:
        raise ProofInvalid(f"the proof does not lead to the root of the old tree of {old_size} entries")
    if new != new_root:
        raise ProofInvalid(f"the proof does not lead to the root of the new tree of {new_size} entries")


class _Step(NamedTuple):
    """One step up a tree: the entries [start, end) of the sibling, and whether it is on the left or the right."""

    left: bool
    start: int
    end: int


def _steps_to_entry(index: int, size: int) -> list[_Step]:
    """Return the steps from an entry up to the root."""
    if not 0 <= index < size:
        raise ProofInvalid(f"entry {index} is not in a tree of {size} entries")
    steps = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            steps.append(_Step(left=False, start=middle, end=end))
            end = middle
        else:
            steps.append(_Step(left=True, start=start, end=middle))
            start = middle
    return steps[::-1]


def _steps_to_seam(old_size: int, new_size: int) -> tuple[tuple[int, int] | None, list[_Step]]:
    """Return the steps from the last complete subtree of the old tree (the seam) up to the new root.

    The seam is None where it is the old tree itself, whose root the verifier has, and where there is nothing to show.
    """
    if not 0 <= old_size <= new_size:
        raise ProofInvalid(f"a tree of {new_size} entries can't begin with one of {old_size}")
    steps: list[_Step] = []
    start, end = 0, new_size
    while old_size not in (0, end):
        middle = start + _split(end - start)
        if old_size <= middle:
            steps.append(_Step(left=False, start=middle, end=end))
            end = middle
        else:
            steps.append(_Step(left=True, start=start, end=middle))
            start = middle
    return (start, end) if start else None, steps[::-1]


def _split(length: int) -> int:
    """Return the largest power of two below `length` (which is at least 2)."""
    return 1 << ((length - 1).bit_length() - 1)


def _check_hashes(proof: Sequence[bytes], expected: int) -> None:
    if len(proof) != expected:
        raise ProofInvalid(f"a proof of {len(proof)} hashes; expected {expected}")
    if any(len(one) != HASH_BYTES for one in proof):
        raise ProofInvalid(f"a proof with a hash that is not {HASH_BYTES} bytes long")
