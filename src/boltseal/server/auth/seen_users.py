"""Remembers that a running server has had a user, so that it does not open when the last one is removed.

    DATA/run/<pid of the server>/users-seen    exists once a worker, or the server at its start, has seen a user

A server on loopback without users is open to this machine. Behind a proxy, to all clients that the proxy lets in: there the
removal of the last user must not give them everything. The workers of one server share the file; the next start makes another
run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

SEEN_NAME: Final = "users-seen"

_log = structlog.get_logger(__name__)


class SeenUsers:
    """Whether a server has had a user since it was started. `run`: the run folder; None: of this process alone."""

    def __init__(self, run: Path | None) -> None:
        self._path = None if run is None else run / SEEN_NAME
        self._here = False
        self._saved = run is None

    def note(self) -> None:
        """Remember that there is a user. A full disk: this process remembers it, and tries again at the next request."""
        first, self._here = not self._here, True
        if self._saved or self._path is None:
            return
        try:
            self._path.touch(mode=0o640)
            self._saved = True
        except OSError as error:
            if first:
                _log.warning("the other workers cannot learn that there are users", reason=str(error))

    def any(self) -> bool:
        """Return whether this worker or another one has seen a user. Looks for a file while none has."""
        if not self._here and self._path is not None:
            self._here = self._path.exists()
        return self._here
