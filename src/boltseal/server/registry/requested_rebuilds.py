"""The rebuilds that the servers of a registry have requested, as rows: a server that takes over knows them.

Until data format 12 each server had a file of its own, `DATA/outdated/rebuilds.jsonl`. The server that has the lease adopts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from boltseal.client.state import ClientState, StateUnusable
from boltseal.project.bases.rebuild_journal import JournalLine, RebuildJournal, RebuildOutcome, shortened
from boltseal.server.storage.coordination.protocol import Lease
from boltseal.server.storage.metadata import rebuild_table
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.rebuild_table import RebuildRow

ADOPTED: Final = "rebuilds.jsonl.before-0016"


class RebuildRows:
    """`RequestedRebuilds` of a database. `lease`: that of this server, which each write confirms. `state`: its own folder."""

    def __init__(self, database: Metadata, lease: Lease, state: ClientState) -> None:
        self._database = database
        self._lease = lease
        self._file = RebuildJournal(state)

    @property
    def group_file(self) -> Path:
        """The file with the process group of the command that runs, on this machine."""
        return self._file.group_file

    def alone(self) -> AbstractContextManager[bool]:
        """Yield whether no other process of this data folder requests rebuilds."""
        return self._file.alone()

    def last(self) -> Mapping[tuple[str, str], JournalLine]:
        """Return the last line of each image and base. Raises: StateUnusable: a row is not one of boltseal; Unavailable."""
        rows = self._database.read_and_wait(rebuild_table.all_requests)
        return {(row.image, row.base): _line(row) for row in rows}

    def append(self, line: JournalLine) -> None:
        """Write a line; it is durable when this returns. Raises: LeaseLost, Unavailable."""
        with fenced(self._database, self._lease):
            self._database.write_and_wait(lambda tx: rebuild_table.put(tx, _row(shortened(line))))

    def adopt_file(self) -> None:
        """Write the lines of the file that this server had, where there is no row, and set the file aside. Idempotent.

        Raises: StateUnusable, LeaseLost, Unavailable.
        """
        if not self._file.path.exists():
            return
        lines = self._file.last().values()

        def job(tx: UnitOfWork) -> None:
            known = {(row.image, row.base) for row in rebuild_table.all_requests(tx)}
            for line in lines:
                if (line.image, line.base) not in known:
                    rebuild_table.put(tx, _row(line))

        with fenced(self._database, self._lease):
            self._database.write_and_wait(job)
        try:
            self._file.path.replace(self._file.path.with_name(ADOPTED))
        except OSError as error:
            raise StateUnusable(f"{self._file.path} can't be renamed: {error.strerror}") from error


def _row(line: JournalLine) -> RebuildRow:
    return RebuildRow(line.image, line.base, line.digest, line.time_us, str(line.outcome), line.tries, line.summary)


def _line(row: RebuildRow) -> JournalLine:
    try:
        outcome = RebuildOutcome(row.outcome)
    except ValueError as error:
        raise StateUnusable(
            f"the requested rebuild of {row.image} has an outcome that boltseal does not know"
        ) from error
    return JournalLine(row.time_us, row.image, row.base, row.digest, outcome, row.tries, row.summary)
