"""Brings two copies of a project's releases to one state: those of a folder, and those on the engine. Pure.

1. A release that one side lacks is copied there, so that a pruned volume is written again.
2. Of two states of one release the one with the higher revision counts.
3. Two different releases of one number arise when the copy was pruned and another administrator deployed then. One keeps the
   number: that of the folder, if the folder is that of root on the engine's own host, else that of the engine. The other gets
   the next free number, also in the releases of its side that refer to it: the hold of a rollback stays. If it did not run last,
   it is recorded as abandoned: it can still be restored by its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from boltseal.deploy.release_file import StoredRelease, TornFile, format_stored, parse_stored
from boltseal.deploy.releases import Release, ReleaseEnd, ReleaseStep, ReleaseUnreadable

_SLOTS: Final = ("0", "1")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What each side lacks."""

    to_folder: tuple[StoredRelease, ...]
    to_engine: tuple[StoredRelease, ...]


def files_in_volume(stored: StoredRelease) -> dict[str, bytes]:
    """Return what is written for a release on the engine, in its project's folder.

    Each release has two files that are written in turn: if a write is interrupted, the other file has the previous state. A release
    without contents replaces both, since the engine's API removes no file, and the previous state has the contents.
    """
    raw, number = format_stored(stored), stored.release.number
    first = stored.revision % len(_SLOTS)
    slots = (first,) if stored.contents is not None else (first, 1 - first)
    return {f"{number}.{slot}": raw for slot in slots}


def outdated_files(files: Mapping[str, bytes], found: Iterable[StoredRelease]) -> dict[str, bytes]:
    """Return what has to be written for releases without contents whose earlier state is still on the engine."""
    lacking: dict[str, bytes] = {}
    for each in found:
        if each.contents is None:
            lacking |= {name: raw for name, raw in files_in_volume(each).items() if files.get(name, raw) != raw}
    return lacking


def releases_in_volume(files: Mapping[str, bytes], project: str) -> tuple[StoredRelease, ...]:
    """Return the releases in the files of a project's folder on the engine, without torn files and other ones.

    Raises: ReleaseUnreadable: a newer boltseal wrote one of them, which must not be taken for a missing one, or it is invalid.
    """
    found: dict[int, StoredRelease] = {}
    for name, raw in files.items():
        number, _, slot = name.partition(".")
        if slot not in _SLOTS or not number.isdecimal():
            continue
        try:
            stored = parse_stored(raw)
        except TornFile:
            continue
        except ReleaseUnreadable as error:  # to ignore it would give its number to another release, and lose its hold
            raise ReleaseUnreadable(
                f"file {project}/{name} in the volume with the releases: {error.message}"
            ) from error
        if (stored.release.project, str(stored.release.number)) != (project, number):
            continue
        before = found.get(stored.release.number)
        if before is None or before.revision < stored.revision:
            found[stored.release.number] = stored
    return tuple(found[number] for number in sorted(found))


def exchanged(ours: Iterable[StoredRelease], theirs: Iterable[StoredRelease], *, authoritative: bool) -> Exchange:
    """Return what each side lacks. `ours`: of the folder; `authoritative`: whether the folder's releases keep their numbers."""
    left, right = _by_number(ours), _by_number(theirs)
    decided = [
        _decided(left.get(number), right.get(number), authoritative=authoritative) for number in sorted({*left, *right})
    ]
    to_folder = [each for one in decided for each in one.to_folder]
    to_engine = [each for one in decided for each in one.to_engine]
    everything = [*left.values(), *right.values()]
    losers: list[StoredRelease] = []
    numbers: dict[int, int] = {}
    for loser in (one.loser for one in decided if one.loser is not None):
        copies = [
            each.release.number for each in everything if each is not loser and _same(loser.release, each.release)
        ]
        if not copies:
            losers.append(loser)
        numbers[loser.release.number] = copies[0] if copies else max({*left, *right}) + len(losers)
    newest_us = max((each.release.started_us for each in everything if each not in losers), default=0)
    for each in losers:
        moved = _renumbered(each, numbers, newest_us)
        to_folder.append(moved)
        to_engine.append(moved)
    return Exchange(tuple(to_folder), tuple(to_engine))


class _Decision(NamedTuple):
    to_folder: tuple[StoredRelease, ...] = ()
    to_engine: tuple[StoredRelease, ...] = ()
    loser: StoredRelease | None = None


def _decided(mine: StoredRelease | None, other: StoredRelease | None, *, authoritative: bool) -> _Decision:
    """Decide for one number: rules 1, 2 and 3."""
    if mine is None or other is None:  # 1
        return _Decision((other,) if other is not None else (), (mine,) if mine is not None else ())
    if _same(mine.release, other.release):  # 2
        newer = mine.revision - other.revision
        return _Decision((other,) if newer < 0 else (), (mine,) if newer > 0 else ())
    if not authoritative:  # 3
        return _Decision((other,), (), mine)
    winner = _rewritten(mine, max(mine.revision, other.revision) + 1)  # theirs may have a higher revision
    return _Decision((winner,), (winner,), other)


def _by_number(found: Iterable[StoredRelease]) -> dict[int, StoredRelease]:
    return {each.release.number: each for each in found}


def _same(left: Release, right: Release) -> bool:
    return (left.started_us, left.who, left.kind) == (right.started_us, right.who, right.kind)


def _rewritten(stored: StoredRelease, revision: int) -> StoredRelease:
    return msgspec.structs.replace(stored, revision=revision)


def _renumbered(stored: StoredRelease, numbers: Mapping[int, int], newest_us: int) -> StoredRelease:
    """Return a release under its new number. `numbers`: the new numbers of its side's releases, where they changed."""
    old = stored.release
    release = msgspec.structs.replace(
        old,
        number=numbers[old.number],
        previous=None if old.previous is None else numbers.get(old.previous, old.previous),
        of=None if old.of is None else numbers.get(old.of, old.of),
    )
    if release.started_us < newest_us:
        end = release.ended_us or release.started_us
        why = f"another administrator's release had its number {old.number}"
        release = msgspec.structs.replace(
            release, step=ReleaseStep.ENDED, end=ReleaseEnd.ABANDONED, ended_us=end, reason=why
        )
    return msgspec.structs.replace(stored, revision=stored.revision + 1, release=release)
