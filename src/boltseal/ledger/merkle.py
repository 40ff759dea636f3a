"""The tree over the ledger's entries: hashes, proofs, and what proofs prove (RFC 6962, section 2.1; RFC 9162, 2.1).

    leaf   SHA-256(0x00 || entry)
    node   SHA-256(0x01 || left || right)
    root   of no entries: SHA-256(""); of n: split at the largest power of two below n, hash both sides, then the node

A subtree over 2^level entries that starts at a multiple of 2^level never changes once it is full. `Node` names such a
subtree, and everything here is said in nodes: which ones make up a range of entries (`cover`), which ranges make up a
proof (`inclusion_path`, `consistency_path`), and what a range hashes to (`fold`). Callers that store nodes
first ask which are needed, read them, and then compute.

Verifying needs nothing but the proof: `verify_inclusion`, `verify_consistency`. Where nodes are stored: `tiles`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from boltseal.errors import Invalid

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class ProofInvalid(Invalid):
    """A proof that does not prove what it came with: somebody is wrong, or lies."""


class Node(NamedTuple):
    """The subtree over the entries [offset << level, (offset + 1) << level)."""

    level: int
    offset: int


Range = tuple[Node, ...]
"""Neighbouring nodes from left to right, each smaller than the one before it: what one hash of a proof covers."""

Path = tuple[Range, ...]
"""What the hashes of a proof cover, in order."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry's bytes as a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees that stand side by side."""
    return sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash of a range, from those of its nodes; of an empty one EMPTY_ROOT."""
    if not hashes:
        return EMPTY_ROOT
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def cover(start: int, end: int) -> Range:
    """The nodes that make up the entries [start, end), as the tree splits them.

    `start` must be a multiple of a power of two that is at least the length, as it is wherever a tree splits.
    """
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return tuple(nodes)


def inclusion_path(index: int, size: int) -> Path:
    """The siblings from the entry `index` up to the root of the tree over `size` entries (RFC 6962, 2.1.1)."""
    return tuple(cover(step.start, step.end) for step in _steps_to_entry(index, size))


def consistency_path(old_size: int, new_size: int) -> Path:
    """What shows that the tree over `new_size` entries begins with the one over `old_size` (RFC 6962, 2.1.2)."""
    seam, steps = _steps_to_seam(old_size, new_size)
    path = tuple(cover(step.start, step.end) for step in steps)
    return path if seam is None else (cover(*seam), *path)


def prove(path: Path, node: Callable[[Node], bytes]) -> tuple[bytes, ...]:
    """The hashes of a proof. `node` gives the hash of each subtree that the path names."""
    return tuple(fold([node(one) for one in part]) for part in path)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Hold a leaf's hash against a root; ProofInvalid when it is not entry `index` of the tree over `size` entries.

    `size` and `root` must come from one checkpoint: a proof does not show that a root belongs to a size.
    """
    steps = _steps_to_entry(index, size)
    _check_hashes(proof, len(steps))
    for step, sibling in zip(steps, proof, strict=True):
        leaf = node_hash(sibling, leaf) if step.left else node_hash(leaf, sibling)
    if leaf != root:
        raise ProofInvalid(f"the proof does not lead from entry {index} to the root of the tree of {size} entries")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Hold two trees against each other; ProofInvalid when the new one does not begin with the old one.

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
    """One step up a tree: the sibling covers the entries [start, end), and stands left or right of where we are."""

    left: bool
    start: int
    end: int


def _steps_to_entry(index: int, size: int) -> list[_Step]:
    """From the entry up to the root."""
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
    """From the last subtree of the old tree that is whole in the new one (the seam) up to the new root.

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
    """The largest power of two below `length` (which is at least 2)."""
    return 1 << ((length - 1).bit_length() - 1)


def _check_hashes(proof: Sequence[bytes], expected: int) -> None:
    if len(proof) != expected:
        raise ProofInvalid(f"a proof of {len(proof)} hashes; expected {expected}")
    if any(len(one) != HASH_BYTES for one in proof):
        raise ProofInvalid(f"a proof with a hash that is not {HASH_BYTES} bytes long")
