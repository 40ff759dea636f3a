"""What each witness stated last about the ledger, in `<data>.keys/ledger.witnesses`, so that a restart does not forget it.

    cosigned 4711 witness.example.com/w1+1a2b3c4d+AbCd...    one line for each witness that knows the ledger
    larger 4720 witness.example.com/w1+1a2b3c4d+AbCd...      it saw 4720 entries, more than the data had
    another 4711 witness.example.com/w1+1a2b3c4d+AbCd...     it saw other entries than the first 4711 of the data

A line is written when the first word changes, or a larger size is stated. So the size of `cosigned` is that of the first
checkpoint that the witness cosigned since the line was another one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable

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
    """The statements of all witnesses of a store, by the text of the witness's key."""

    def __init__(self, keys: LedgerKeys) -> None:
        self._keys = keys

    def read(self) -> Mapping[str, Statement]:
        """Return the last statement of each witness that knows the ledger.

        Raises:
            LedgerKeyUnreadable: the file cannot be read or parsed, so any witness may have contradicted the data.
        """
        raw = self._keys.statements()
        if raw is None:
            return {}
        try:
            return dict(_parse(line) for line in raw.decode("utf-8").splitlines())
        except ValueError as error:
            raise LedgerKeyUnreadable(f"the statements of the witnesses can't be read: {error}") from error

    def note(self, witness: str, statement: Statement) -> None:
        """Remember a statement, unless nothing changes but the size of what was cosigned. Raises: LedgerKeyUnreadable."""
        if not _changes(self.read().get(witness), statement):
            return
        with self._keys.locked():
            self._keys.put_statements(_format({**self.read(), witness: statement}))

    def keep_only(self, witnesses: Collection[str]) -> None:
        """Forget all other witnesses, which the operator removed. Raises: LedgerKeyUnreadable."""
        if self.read().keys() <= set(witnesses):
            return
        with self._keys.locked():
            self._keys.put_statements(_format({key: one for key, one in self.read().items() if key in witnesses}))


def _changes(before: Statement | None, now: Statement) -> bool:
    return before is None or before.stated != now.stated or (now.stated != Stated.COSIGNED and before != now)


def _format(statements: Mapping[str, Statement]) -> bytes:
    lines = (f"{one.stated} {one.size} {witness}\n" for witness, one in sorted(statements.items()))
    return "".join(lines).encode()


def _parse(line: str) -> tuple[str, Statement]:
    stated, size, witness = line.split(" ")
    if not (size.isascii() and size.isdigit() and len(size) <= _MAX_DIGITS):
        raise ValueError("a size is not a number of entries")
    return witness, Statement(Stated(stated), int(size))
