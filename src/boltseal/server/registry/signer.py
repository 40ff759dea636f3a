"""The thread of a serving process that signs a log soon after each transaction; each log has one.

At most `PAUSE_S` after an entry was committed here, and once in `LOOK_S` for entries of processes that died or of verbs
beside the server. A single push is signed at once; under many, each head takes in all that came in the pause.
Doubt about a log freezes it until it is mended: nothing is recorded in it (`sequencer`), and pulls go on. Trouble that may
pass (a disk that is full, a lock) is told and tried again; the entries it concerns are durable and wait.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.registry.integrator import LedgerInDoubt

if TYPE_CHECKING:
    from collections.abc import Callable

    from boltseal.server.registry.integrator import Integrator
    from boltseal.server.storage.metadata.protocol import Metadata

PAUSE_S: Final = 0.075
LOOK_S: Final = 1.0
AFTER_TROUBLE_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Signer:
    """Made, started and closed once. `signed`: called in this thread after each head that is new."""

    def __init__(self, integrator: Integrator, database: Metadata, signed: Callable[[], None] = lambda: None) -> None:
        self._integrator = integrator
        self._database = database
        self._signed = signed
        self._log = integrator.log.name
        self._size = -1
        self._work = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="boltseal-sign", daemon=True)
        self.trouble: str | None = None
        """Why the newest entries are not signed, None where they are or will be in a moment."""

    def start(self) -> None:
        """From now on entries of this process are signed."""
        self._database.after_append[self._log] = self._work.set
        self._thread.start()

    def close(self) -> None:
        """Sign what is left, and end. The database must still be open."""
        self._ending.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._work.wait(LOOK_S)
            self._work.clear()
            self._sign()
            self._ending.wait(PAUSE_S if self.trouble is None else AFTER_TROUBLE_S)
        self._sign()

    def _sign(self) -> None:
        try:
            head = self._integrator.integrate()
        except LedgerInDoubt as doubt:
            if self._database.doubts.get(self._log) != doubt.message:
                _log.error("the ledger is doubted: nothing is taken in", log=self._log, reason=doubt.message)
            self._database.doubts[self._log] = doubt.message
        except BoltsealError as error:
            if self.trouble is None:
                _log.warning("the ledger could not be signed; trying again", log=self._log, reason=error.message)
            self.trouble = error.message
        except Exception:  # noqa: BLE001 - the outermost shell of this thread: without it nothing would be signed any more
            _log.exception("the ledger could not be signed: this is a defect", log=self._log)
            self.trouble = "this is a defect; the log has it"
        else:
            if self._database.doubts.pop(self._log, None) is not None:
                _log.warning("the ledger is as it was signed again: what comes is taken in", log=self._log)
            self.trouble = None
            if head is not None and head.size != self._size:
                self._size = head.size
                self._signed()
