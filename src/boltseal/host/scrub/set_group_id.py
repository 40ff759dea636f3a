"""What the kernel gives new folders that are in one with the set-group-id bit: that bit and its group (mkdir(2)).

An engine unpacks entry by entry, and a later entry may give or take the bit of a folder that exists. So a folder's own bit
at the end of the tar says nothing: what counts is the folder above it at the time when the folder was made.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass(slots=True)
class SetGroupIds:
    """The folders with the set-group-id bit at some point of a layer's tar. Call its methods in the tar's order.

    `keeps_bit`, `keeps_group`: whether the engine leaves them on a folder without an entry. `own_group`: the group that it sets
    otherwise.
    """

    keeps_bit: bool
    keeps_group: bool
    own_group: int | None
    _groups: dict[bytes, int] = field(default_factory=dict)
    _given: dict[bytes, int] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether a folder so far has the bit."""
        return bool(self._groups)

    def is_now(self, path: bytes, mode: int, group: int | None) -> None:
        """Record the mode and the group that a folder has from here on, by an entry or as a copy of a lower layer's."""
        if mode & stat.S_ISGID and group is not None:
            self._groups[path] = group
        else:
            self._groups.pop(path, None)

    def made(self, path: bytes) -> None:
        """Record that the engine makes a folder without an entry."""
        group = self._groups.get(path.rpartition(b"/")[0])
        if group is None:
            return
        self._given[path] = group
        kept = group if self.keeps_group else self.own_group
        if self.keeps_bit and kept is not None:
            self._groups[path] = kept

    def given(self, path: bytes) -> int | None:
        """Return the group of the set-group-id folder that a folder without an entry was made in, None if it was another."""
        return self._given.get(path)

    def forget(self, path: bytes) -> None:
        """Record that a folder is replaced by something else."""
        self._groups.pop(path, None)
        self._given.pop(path, None)
