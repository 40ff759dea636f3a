"""Files that the folder of keys had until data format 12, and whose content are rows since.

    ledger.tags.doubt, ledger.witnesses.doubt   why the ledger took no entries (`ledger_doubts`)
    ledger.witnesses                            what each witness stated last (`witness_statements`)

A start writes their content into the database and then removes them. Commands on data of an older format read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable, read_small
from boltseal.server.storage.metadata.protocol import Log

STATEMENTS: Final = "ledger.witnesses"


def doubt(folder: Path, log: Log, about: str) -> str | None:
    """Return the reason of a doubt, None if there is no file. Raises: LedgerKeyUnreadable."""
    raw = read_small(folder / _doubt(log, about))
    return None if raw is None else raw.decode("utf-8", errors="replace").strip()


def statements(folder: Path) -> bytes | None:
    """Return what the witnesses stated, None if there is no file. Raises: LedgerKeyUnreadable."""
    return read_small(folder / STATEMENTS)


def remove_doubt(folder: Path, log: Log, about: str) -> None:
    """Remove the file of a doubt. Idempotent. Raises: LedgerKeyUnreadable."""
    _remove(folder / _doubt(log, about))


def remove_statements(folder: Path) -> None:
    """Remove what the witnesses stated. Idempotent. Raises: LedgerKeyUnreadable."""
    _remove(folder / STATEMENTS)


def _doubt(log: Log, about: str) -> str:
    return f"{log.name}.{about}.doubt"


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LedgerKeyUnreadable(f"{path.parent.name}/{path.name} can't be removed: {error.strerror}") from error
