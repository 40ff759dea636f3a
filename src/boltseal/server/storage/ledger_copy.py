"""A copy of a ledger on disk, to recover entries from. The caller verifies what it reads.

a data folder           boltseal.db: a newer backup, the old disk
a tree of tiles         checkpoint, tile/entries/...: a copy of /ledger/ made by any C2SP tool
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, Unavailable
from boltseal.ledger.note import MAX_NOTE_BYTES
from boltseal.ledger.tiles import MAX_ENTRY_BYTES, WIDTH, BundleId, parse_bundle
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.protocol import LEDGER, Log
from boltseal.server.storage.metadata.sqlite import open_snapshot

MAX_BUNDLE_BYTES: Final = WIDTH * (MAX_ENTRY_BYTES + 2)


class CopyInvalid(Invalid):
    """The folder contains no copy of a ledger, or not what was asked for."""


class FolderCopy:
    """A folder of either kind. A tree of tiles is of one log, `log`. CopyInvalid: it is neither."""

    def __init__(self, folder: Path, log: Log = LEDGER) -> None:
        self._folder = folder
        self._log = log
        self._database = folder / DATABASE_NAME
        if not self._database.is_file() and not (folder / "checkpoint").is_file():
            raise CopyInvalid(
                f"{folder} contains no copy of a ledger; expected a data folder, or a tree with checkpoint and tile/entries"
            )

    def head(self) -> bytes | None:
        """Return the signed checkpoint, None if there is none. Raises: CopyInvalid, Unavailable."""
        if not self._database.is_file():
            return self._read(self._folder / "checkpoint", MAX_NOTE_BYTES)
        with open_snapshot(self._database) as held:
            head = ledger_tree.head(held, log=self._log)
        return None if head is None else head.note

    def lines(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the entries [start, end) that the copy has. Raises: CopyInvalid, Unavailable."""
        if self._database.is_file():
            with open_snapshot(self._database) as held:
                yield from [line for _, line in ledger_store.lines(held, start, until=end, log=self._log)]
            return
        for index in range(start // WIDTH, -(-end // WIDTH)):
            width = min(end - index * WIDTH, WIDTH)
            entries = self._bundle(index, width)
            yield from entries[max(start - index * WIDTH, 0) : width]

    def _bundle(self, index: int, width: int) -> tuple[bytes, ...]:
        """Return at least the first `width` entries of a bundle, from the narrowest file that has them."""
        for wide in range(width, WIDTH + 1):
            path = self._folder / BundleId(index, wide).path()
            if path.is_file():
                return parse_bundle(self._read(path, MAX_BUNDLE_BYTES), wide)
        raise CopyInvalid(f"{self._folder} lacks {BundleId(index, width).path()}")

    def _read(self, path: Path, limit: int) -> bytes:
        try:
            with path.open("rb") as file:
                raw = file.read(limit + 1)
        except OSError as error:
            raise Unavailable(f"{path} can't be read: {error.strerror}") from error
        if len(raw) > limit:
            raise CopyInvalid(f"{path} is longer than {limit} bytes")
        return raw
