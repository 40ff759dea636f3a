"""Merge two locks that were changed from a common base, entry by entry. Pure.

A text merge sees a conflict wherever two branches add images that are neighbours in the sorted file. Here each entry is
merged by itself:

- added, removed or locked to another digest on one side: that side's change;
- positions and spellings: those that both sides have, and those that one side added;
- locked to different digests by both sides: a conflict, because each of them was reviewed.

Records of written pins never conflict: one that is not in the file has no effect (`project.written_pins`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from boltseal.lockfile.document import Lock, LockedImage, sorted_lock
from boltseal.oci.reference import Reference

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MARK: Final = re.compile(r"(<{7}|\|{7}|={7}|>{7})(?: .*)?")


class MergeSides(NamedTuple):
    """The texts of a merge. `base` None: not known."""

    base: bytes | None
    ours: bytes
    theirs: bytes


@dataclass(frozen=True, slots=True)
class MergedLock:
    """The result: what could be merged, with our side of each conflict; `theirs`: the other side of the conflicts."""

    lock: Lock
    theirs: Mapping[Reference, LockedImage] = field(default_factory=dict)
    their_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The references, and the registries with a ledger key, that both sides changed differently."""
        return (*(reference.familiar() for reference in self.theirs), *self.their_keys)


def merge_locks(base: Lock, ours: Lock, theirs: Lock) -> MergedLock:
    """Merge two locks. `base`: their common ancestor; an empty lock if it is not known."""
    before, left, right = base.by_reference(), ours.by_reference(), theirs.by_reference()
    images: list[LockedImage] = []
    other_side: dict[Reference, LockedImage] = {}
    for reference in left.keys() | right.keys():
        known, mine, their = before.get(reference), left.get(reference), right.get(reference)
        if mine is None or their is None:
            images += _one_sided(known, right[reference] if mine is None else mine)
            continue
        chosen = _chosen(known, mine, their)
        if chosen is None:
            other_side[reference] = their
        images.append(_with_occurrences(chosen or mine, known, mine, their))
    keys = _merged(base.keys, ours.keys, theirs.keys)
    before_pins, our_pins, their_pins = ({pin.place: pin for pin in lock.pins} for lock in (base, ours, theirs))
    pins = _merged(before_pins, our_pins, their_pins)
    pins |= {place: our_pins[place] for place in our_pins.keys() & their_pins.keys() - pins.keys()}
    # the key of a registry that one side removed stays if the other side still uses the registry
    rendered = _union(base.rendered, ours.rendered, theirs.rendered)
    lock = sorted_lock(images, {**theirs.keys, **ours.keys, **keys}, pins.values(), rendered)
    their_keys = {
        name: theirs.keys[name] for name in lock.keys if name in theirs.keys.keys() & ours.keys and name not in keys
    }
    return MergedLock(lock, dict(sorted(other_side.items(), key=lambda item: str(item[0]))), their_keys)


def _one_sided(before: LockedImage | None, image: LockedImage) -> Iterable[LockedImage]:
    """Yield an entry that one side has: added there, or removed on the other side, unless it has new uses."""
    if before is None:
        yield image
    elif added := tuple(use for use in image.used if use not in before.used):
        yield replace(image, used=added)


def _chosen(before: LockedImage | None, ours: LockedImage, theirs: LockedImage) -> LockedImage | None:
    """Return the entry whose digest is taken; None for a conflict."""
    if ours.digest == theirs.digest:
        return replace(
            ours,
            first_seen_us=min(ours.first_seen_us, theirs.first_seen_us),
            media_type=ours.media_type or theirs.media_type,
            platforms=ours.platforms or theirs.platforms,
            entry=theirs.entry if ours.entry is None else ours.entry,
        )
    if before is not None and before.digest in (ours.digest, theirs.digest):
        return theirs if before.digest == ours.digest else ours
    return None


def _with_occurrences(
    image: LockedImage, before: LockedImage | None, ours: LockedImage, theirs: LockedImage
) -> LockedImage:
    known_uses, known_texts = ((), ()) if before is None else (before.used, before.written)
    return replace(
        image,
        used=_union(known_uses, ours.used, theirs.used),
        written=_union(known_texts, ours.written, theirs.written),
    )


def _union(before: Iterable[K], ours: Iterable[K], theirs: Iterable[K]) -> tuple[K, ...]:
    """Return what both sides have, and what one side added."""
    known, left, right = set(before), set(ours), set(theirs)
    return tuple((left & right) | (left - known) | (right - known))


def _merged(before: Mapping[K, V], ours: Mapping[K, V], theirs: Mapping[K, V]) -> dict[K, V]:
    """Return the values that both sides have, or that one side changed; without those that both changed differently."""
    found: dict[K, V] = {}
    for key in ours.keys() | theirs.keys():
        known, mine, their = before.get(key), ours.get(key), theirs.get(key)
        if mine == their or their == known:
            chosen = mine
        elif mine == known:
            chosen = their
        else:
            continue
        if chosen is not None:
            found[key] = chosen
    return found


def sides_of_conflict(raw: bytes) -> MergeSides | None:
    """Return the sides of a text with git's conflict marks, or None if it has none or they are incomplete.

    The base is known only with `merge.conflictStyle` `diff3` or `zdiff3`.
    """
    texts: dict[str, list[bytes]] = {"base": [], "ours": [], "theirs": []}
    into, seen, has_base = tuple(texts), False, True
    expected = {"<": "|=", "|": "=", "=": ">", ">": "<"}
    last = ">"
    for line in raw.splitlines(keepends=True):
        mark = _MARK.fullmatch(line.decode("utf-8", "replace").rstrip("\r\n"))
        if mark is None:
            for side in into:
                texts[side].append(line)
            continue
        kind = mark[1][0]
        if kind not in expected[last]:
            return None
        has_base = has_base and not (last == "<" and kind == "=")
        last, seen = kind, True
        into = {"<": ("ours",), "|": ("base",), "=": ("theirs",), ">": tuple(texts)}[kind]
    if not seen or last != ">":
        return None
    base, ours, theirs = (b"".join(texts[side]) for side in ("base", "ours", "theirs"))
    return MergeSides(base if has_base else None, ours, theirs)
