"""The thread of a serving process that signs a log soon after each transaction. Each log has one.

It signs at most `PAUSE_S` after an entry was committed in this process, and every `POLL_S` for entries of processes that
died or of commands that run beside the server. A single push is signed at once. Under many, each checkpoint covers all entries
of the pause.

A log that does not match what was signed is frozen: `sequencer` refuses new entries until it is repaired, and pulls go
on. A temporary failure (a full disk, a lock) is logged and retried; its entries are durable. While the store of the mark does not
answer, new entries are refused too: this may be a part of the network that another server does not see.
"""

from __future__ import annotations

import threading
from typing import Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.storage.ledger_mark import MarkUnreachable
from boltseal.server.storage.metadata.protocol import LEDGER, MARK, TAGS, Metadata

PAUSE_S: Final = 0.075
POLL_S: Final = 1.0
RETRY_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Signer:
    """Signs one log in a thread."""

    def __init__(self, integrator: Integrator, database: Metadata) -> None:
        self._integrator = integrator
        self._database = database
        self._log = integrator.log.name
        self._work = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="boltseal-sign", daemon=True)
        self.trouble: str | None = None
        """Why the newest entries are not signed; None where they are, or will be within `POLL_S`."""

    def start(self) -> None:
        """Begin to sign the entries of this process."""
        self._database.after_append[self._log] = self._work.set
        self._thread.start()

    def close(self) -> None:
        """Sign the remaining entries and end the thread. The database must still be open."""
        self._ending.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._work.wait(POLL_S)
            self._work.clear()
            self._sign()
            self._ending.wait(PAUSE_S if self.trouble is None else RETRY_S)
        self._sign()

    def _sign(self) -> None:
        try:
            doubt = self._database.doubts.get(TAGS) if self._log == LEDGER.name else None
            if doubt is not None:  # found by a transaction of this process; the others learn of it from the keys
                self._integrator.doubt(TAGS, doubt)
                self._database.doubts[self._log] = doubt
                del self._database.doubts[TAGS]
            self._integrator.integrate()
        except LedgerInDoubt as doubt:
            if self._database.doubts.get(self._log) != doubt.message:
                _log.error("ledger frozen", log=self._log, reason=doubt.message)
            self._database.doubts[self._log] = doubt.message
        except BoltsealError as error:
            if self.trouble is None:
                _log.warning("ledger not signed, retrying", log=self._log, reason=error.message)
            self.trouble = error.message
            if isinstance(error, MarkUnreachable):
                self._database.doubts[f"{self._log}{MARK}"] = error.message
        except Exception:  # noqa: BLE001 - the outermost layer of this thread: if it ended, nothing would be signed any more
            _log.exception("ledger not signed: internal error", log=self._log)
            self.trouble = "a defect of boltseal; see the log"
        else:
            if self._database.doubts.pop(self._log, None) is not None:
                _log.warning("ledger matches its checkpoint again, writes resume", log=self._log)
            self._database.doubts.pop(f"{self._log}{MARK}", None)
            self.trouble = None
