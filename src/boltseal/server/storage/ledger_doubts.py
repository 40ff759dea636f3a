"""The doubts about a log: why it takes no entries, in every server and after a restart, until that is resolved.

A doubt is about the comparison of the ledger's entries with the rows of tags (TAGS), or about its witnesses (WITNESSES). It is a row of
the database, so that all servers of a registry refuse writes, and accept them again, together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boltseal.server.storage import earlier_key_files
from boltseal.server.storage.metadata import doubt_table
from boltseal.server.storage.metadata.protocol import LEDGER, TAGS, Log, Metadata, Snapshot

WITNESSES: Final = "witnesses"
ABOUT: Final = (TAGS, WITNESSES)
"""What a doubt may be about; the first one is shown."""
MAX_REASON: Final = 1000


class LedgerDoubts:
    """The doubts about one log. `keys`: the folder of keys. Every method raises Unavailable."""

    def __init__(self, database: Metadata, keys: Path, log: Log = LEDGER) -> None:
        self._database = database
        self._keys = keys
        self._log = log
        self._in_rows: bool | None = None

    def find(self, snapshot: Snapshot) -> dict[str, str]:
        """Return the reasons, by what they are about, in the order of ABOUT."""
        if self._in_rows is None:
            self._in_rows = doubt_table.is_there(snapshot)
        found = doubt_table.find(snapshot, self._log) if self._in_rows else self._in_files()
        return {about: found[about] for about in ABOUT if about in found}

    def reason_in(self, snapshot: Snapshot) -> str | None:
        """Return why the log takes no entries, None if it does."""
        return next(iter(self.find(snapshot).values()), None)

    def reason(self) -> str | None:
        """Return why the log takes no entries, None if it does."""
        return self._database.read_and_wait(self.reason_in)

    def has(self, about: str) -> bool:
        """Return whether there is a doubt of this kind."""
        return about in self._database.read_and_wait(self.find)

    def put(self, about: str, reason: str) -> None:
        """Let the log take no entries. On data of an older format nothing is written: its next start compares again."""
        self.has(about)
        if self._in_rows:
            self._database.write_and_wait(lambda tx: doubt_table.put(tx, self._log, about, reason[:MAX_REASON]))

    def clear(self, about: str) -> None:
        """Withdraw a doubt."""
        self.has(about)
        if self._in_rows:
            self._database.write_and_wait(lambda tx: doubt_table.clear(tx, self._log, about))
        earlier_key_files.remove_doubt(self._keys, self._log, about)

    def adopt_files(self) -> bool:
        """Write the files of an older format as rows, and remove them. Return whether there were any. Idempotent."""
        found = self._in_files()
        for about, reason in found.items():
            if not self.has(about):
                self.put(about, reason)
            earlier_key_files.remove_doubt(self._keys, self._log, about)
        return bool(found)

    def _in_files(self) -> dict[str, str]:
        found = ((about, earlier_key_files.doubt(self._keys, self._log, about)) for about in ABOUT)
        return {about: reason for about, reason in found if reason is not None}
