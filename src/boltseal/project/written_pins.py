"""Record in the lock which digests `boltseal pin` wrote into files, so that unpinning removes only those. Pure.

A record is valid while the file has the digest that was written, or the one that is locked now. Any other digest was
written by someone else, and is theirs. `boltseal update` changes the digests of valid records only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from boltseal.lockfile.document import Lock, WrittenPin, key_in
from boltseal.oci.digest import Digest
from boltseal.project.image_references import ImageReference


class PinPlace(NamedTuple):
    """An image reference of a project: the `number`th at its position, as in `WrittenPin`."""

    file: str
    at: str
    number: int


def places(image_refs: Iterable[ImageReference]) -> Iterator[tuple[PinPlace, ImageReference]]:
    """Yield each reference with its place. The references of a file must be complete and in the order of the file."""
    count: Counter[tuple[str, str]] = Counter()
    for image_ref in image_refs:
        position = (image_ref.path, image_ref.where)
        count[position] += 1
        yield PinPlace(*position, count[position]), image_ref


def carried_pins(
    pins: Iterable[WrittenPin], image_refs: Iterable[ImageReference], lock: Lock, outside: Callable[[str], bool]
) -> tuple[WrittenPin, ...]:
    """Return the records that are still valid. `outside`: whether a file was not read; its records stay."""
    by_place = {PinPlace(*pin.place): pin for pin in pins}
    if not by_place:
        return ()
    known = lock.by_reference()
    found: list[WrittenPin] = []
    for place, image_ref in places(image_refs):
        pin = by_place.pop(place, None)
        if pin is None:
            continue
        if image_ref.resolved is None:
            found.append(pin)
            continue
        entry = known.get(key_in(image_ref.resolved, known))
        digest = image_ref.pinned
        if digest is not None and digest in (pin.digest, None if entry is None else entry.digest):
            found.append(pin._replace(digest=digest))
    found += [pin for pin in by_place.values() if outside(pin.file)]
    return tuple(sorted(found, key=lambda pin: pin.place))


def valid_pins(image_refs: Sequence[ImageReference], lock: Lock) -> dict[ImageReference, WrittenPin]:
    """Return the valid record of each reference that has one."""
    valid = {PinPlace(*pin.place): pin for pin in carried_pins(lock.pins, image_refs, lock, _none)}
    return {
        image_ref: valid[place]
        for place, image_ref in places(image_refs)
        if place in valid and image_ref.pinned == valid[place].digest
    }


def pins_after(
    lock: Lock, image_refs: Sequence[ImageReference], edits: Mapping[ImageReference, Digest | None], *, unpin: bool
) -> tuple[WrittenPin, ...]:
    """Return the records after an edit of files. `edits`: the new digest of each edited reference, None for none.

    A digest that replaces a recorded one keeps its `replaced`, so that unpinning restores what was there first.
    """
    before = valid_pins(image_refs, lock)
    found = {PinPlace(*pin.place): pin for pin in lock.pins}
    for place, image_ref in places(image_refs):
        if image_ref not in edits:
            continue
        found.pop(place, None)
        digest = edits[image_ref]
        if not unpin and digest is not None:
            replaced = before[image_ref].replaced if image_ref in before else image_ref.pinned
            found[place] = WrittenPin(*place, digest, replaced)
    return tuple(sorted(found.values(), key=lambda pin: pin.place))


def pins_updated(
    lock: Lock,
    image_refs: Sequence[ImageReference],
    digests: Mapping[ImageReference, Digest],
    retagged: Collection[ImageReference],
) -> tuple[WrittenPin, ...]:
    """Return the records after an update wrote these digests over recorded ones. `retagged`: references with a new tag.

    What a record replaced was a digest of the former tag: with a new tag, unpinning removes the digest and restores none.
    """
    found = {PinPlace(*pin.place): pin for pin in lock.pins}
    for place, image_ref in places(image_refs):
        if image_ref in digests and place in found:
            former = None if image_ref in retagged else found[place].replaced
            found[place] = found[place]._replace(digest=digests[image_ref], replaced=former)
    return tuple(sorted(found.values(), key=lambda pin: pin.place))


def _none(_: str) -> bool:
    return False
