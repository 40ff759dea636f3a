"""What each witness stated last about the ledger, as rows, so that neither a restart nor another server forgets it.

    cosigned 4711      the witness knows the ledger
    larger   4720      it saw 4720 entries, more than the data had
    another  4711      it saw other entries than the first 4711 of the data

A row is written when the word changes, or a larger size is stated. So the size of `cosigned` is that of the first checkpoint
that the witness cosigned since the row was another one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from boltseal.server.storage import earlier_key_files
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.metadata import witness_table
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.witness_table import StatementRow

_MAX_DIGITS: Final = 18


class Stated(StrEnum):
    """What a witness stated about the ledger."""

    COSIGNED = "cosigned"
    LARGER = "larger"
    ANOTHER = "another"


@dataclass(frozen=True, slots=True)
class Statement:
    """A witness's statement. `size`: in entries."""

    stated: Stated
    size: int


class WitnessStatements:
    """The statements of all witnesses of a store, by the text of the witness's key. `keys`: the folder of keys.

    Every method raises Unavailable.
    """

    def __init__(self, database: Metadata, keys: Path) -> None:
        self._database = database
        self._keys = keys

    def read(self) -> Mapping[str, Statement]:
        """Return the last statement of each witness that knows the ledger.

        Raises:
            LedgerKeyUnreadable: a statement cannot be parsed, so any witness may have contradicted the data.
        """
        return self._database.read_and_wait(self._read)

    def note(self, witness: str, statement: Statement) -> None:
        """Remember a statement, unless nothing changes but the size of what was cosigned."""
        if _changes(self.read().get(witness), statement):
            self._database.write_and_wait(lambda tx: self._note(tx, witness, statement))

    def keep_only(self, witnesses: Collection[str]) -> None:
        """Forget all other witnesses, which the operator removed."""
        others = self.read().keys() - set(witnesses)
        if others:
            self._database.write_and_wait(lambda tx: _forget(tx, others))

    def forget_all(self) -> None:
        """Forget every witness: the ledger has another origin, which none of them was shown."""
        self.keep_only(())
        earlier_key_files.remove_statements(self._keys)

    def adopt_file(self) -> None:
        """Write the file of an older format as rows, and remove it. Idempotent."""
        found, known = self._in_file(), self.read()
        new = found.keys() - known.keys()
        if new:
            self._database.write_and_wait(lambda tx: _put_all(tx, {key: found[key] for key in new}))
        earlier_key_files.remove_statements(self._keys)

    def _note(self, tx: UnitOfWork, witness: str, statement: Statement) -> None:
        if _changes(self._read(tx).get(witness), statement):  # another server may have noted one meanwhile
            _put_all(tx, {witness: statement})

    def _read(self, snapshot: Snapshot) -> Mapping[str, Statement]:
        if not witness_table.is_there(snapshot):
            return self._in_file()
        try:
            return {
                row.witness: Statement(Stated(row.stated), row.size) for row in witness_table.all_statements(snapshot)
            }
        except ValueError as error:
            raise _unreadable(error) from error

    def _in_file(self) -> dict[str, Statement]:
        raw = earlier_key_files.statements(self._keys) or b""
        try:
            return dict(_parse(line) for line in raw.decode("utf-8").splitlines())
        except ValueError as error:
            raise _unreadable(error) from error


def _put_all(tx: UnitOfWork, statements: Mapping[str, Statement]) -> None:
    for witness, one in statements.items():
        witness_table.put(tx, StatementRow(witness, str(one.stated), one.size))


def _forget(tx: UnitOfWork, witnesses: Collection[str]) -> None:
    if not witness_table.is_there(tx):  # data of an older format, whose statements are a file
        return
    for witness in witnesses:
        witness_table.remove(tx, witness)


def _unreadable(error: ValueError) -> LedgerKeyUnreadable:
    return LedgerKeyUnreadable(f"the statements of the witnesses can't be read: {error}")


def _changes(before: Statement | None, now: Statement) -> bool:
    return before is None or before.stated != now.stated or (now.stated != Stated.COSIGNED and before != now)


def _parse(line: str) -> tuple[str, Statement]:
    """Parse a line of the file: the word, the size, and the witness's key."""
    stated, size, witness = line.split(" ")
    if not (size.isascii() and size.isdigit() and len(size) <= _MAX_DIGITS):
        raise ValueError("a size is not a number of entries")
    return witness, Statement(Stated(stated), int(size))
