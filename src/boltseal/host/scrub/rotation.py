"""Decides which parts of a host a run reads, so that each run reads a share of the bytes and N runs read all (`--share 1/N`).

A part is a layer, a copy of an image, or a running container's view of one. For each part the state has the number of the
run that read it last and found it as expected. A run reads

1. every part whose last reading failed, until it succeeds: a difference is never forgotten because its turn is over;
2. every part that was not read in the N-1 runs before. So each of N consecutive runs reads it at least once, however many
   parts come and go;
3. more parts, those that were never read first, then those that were read longest ago, until the share of all bytes is reached.

The choice depends on nothing but the parts and the state. Sizes come from the store, which may be wrong about them: they
distribute the work, and rules 1 and 2 do not use them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from boltseal.errors import Invalid, quote

MAX_SHARES = 1000


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What is known of a part.

    `run`: the last run that read it and found it as expected; before the first, the run before it appeared. `read_s`: when
    that was, in seconds since 1970, 0 for never. `failed`: whether its last reading found a difference or could not finish.
    `seen_s`: when it appeared.
    """

    run: int
    read_s: int = 0
    failed: bool = False
    seen_s: int = 0

    @property
    def waits_since_s(self) -> int:
        """When it was read last and found as expected; before the first time, when it appeared."""
        return self.read_s or self.seen_s


@dataclass(frozen=True, slots=True)
class RotationState:
    """The state between runs. `run`: the number of the last run."""

    run: int = 0
    parts: Mapping[str, PartRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShareSummary:
    """What a run read, and when the rest was read last.

    `never`: the unread parts that no run has read yet. `oldest_s`: since when the part waits that has waited longest for being
    read and found as expected, in seconds since 1970: since its last reading, or since it appeared.
    """

    shares: int
    parts: int
    read: int
    bytes: int
    unread_bytes: int
    never: int
    oldest_s: int

    @property
    def unread(self) -> int:
        """The number of parts that were not read in this run."""
        return self.parts - self.read


def parse_share(text: str) -> int:
    """Return N of the text 1/N. Raises: Invalid."""
    one, slash, number = text.partition("/")
    if (
        one != "1"
        or not slash
        or not number.isascii()
        or not number.isdigit()
        or not 1 <= int(number[:9]) <= MAX_SHARES
    ):
        raise Invalid(f"--share is {quote(text)}; expected 1/N with N from 1 to {MAX_SHARES}, such as 1/7")
    return int(number)


class Rotation:
    """One run of a rotation. `now_s`: when it began, in seconds since 1970."""

    def __init__(self, shares: int, state: RotationState, now_s: int) -> None:
        self._shares = shares
        self._state = state
        self._now_s = now_s
        self._run = state.run + 1
        self._bytes: Mapping[str, int] = {}
        self._chosen: Collection[str] = frozenset()
        self._failed: set[str] = set()

    def begin(self, sizes: Mapping[str, int]) -> None:
        """Choose the parts that this run reads. `sizes`: all parts with their sizes in bytes."""
        self._bytes = sizes
        records = {key: self._record(key) for key in sizes}
        chosen = {key for key, at in records.items() if at.failed or self._run - at.run >= self._shares}
        left = -(-sum(sizes.values()) // self._shares) - sum(sizes[key] for key in chosen)
        waiting = sorted((at.read_s != 0, at.run, key) for key, at in records.items() if key not in chosen)
        for _, _, key in waiting:
            if left <= 0:
                break
            chosen.add(key)
            left -= sizes[key]
        self._chosen = chosen

    def reads(self, key: str) -> bool:
        """Return whether this run reads a part; one that appeared since the choice is read."""
        return key in self._chosen or key not in self._bytes

    def fail(self, key: str) -> None:
        """Record that a part differs or could not be read."""
        self._failed.add(key)

    def end(self) -> RotationState:
        """Return the state after this run; it has no parts that are gone."""
        return RotationState(self._run, {key: self._after(key) for key in self._bytes})

    def summary(self) -> ShareSummary:
        """Return what this run read."""
        after = self.end().parts
        return ShareSummary(
            self._shares,
            len(after),
            len(self._chosen),
            sum(self._bytes[key] for key in self._chosen),
            sum(size for key, size in self._bytes.items() if key not in self._chosen),
            sum(each.read_s == 0 and key not in self._chosen for key, each in after.items()),
            min((each.waits_since_s for each in after.values()), default=self._now_s),
        )

    def _record(self, key: str) -> PartRecord:
        return self._state.parts.get(key) or PartRecord(self._run - 1, seen_s=self._now_s)

    def _after(self, key: str) -> PartRecord:
        before = self._record(key)
        if key not in self._chosen:
            return before
        if key in self._failed:
            return PartRecord(before.run, before.read_s, failed=True, seen_s=before.seen_s)
        return PartRecord(self._run, self._now_s, seen_s=before.seen_s)
