"""Which statements clients sent to a PostgreSQL server, from its log."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.polling import wait_until
from tests.storage_servers import Postgres

SETTINGS = {"log_statement": "all", "log_line_prefix": "%m |%a|%d| "}
"""Settings of a PostgreSQL whose log is read here."""
_STATEMENT = re.compile(
    r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ \|(?P<application>[^|]*)\|(?P<database>[^|]*)\| LOG:  (?:statement|execute [^:]*): (?P<text>.*(?:\n(?!\d{4}-).*)*)",
    re.MULTILINE,
)


class StatementLog:
    """The statements to one database. `server`: a PostgreSQL that runs with SETTINGS."""

    def __init__(self, server: Postgres, database: str) -> None:
        self._server = server
        self._database = database
        self._markers = 0
        self._from = self._position()

    def new(self) -> Counter[str]:
        """Return how often each statement was sent since the last call, without the values of its parameters."""
        until = self._position()
        text = Path(self._server.log).read_bytes()[self._from : until].decode(errors="replace")
        self._from = until
        found = Counter[str]()
        for each in _STATEMENT.finditer(text):
            if each["database"] == self._database:
                found[f"{each['application']}: {' '.join(each['text'].split())}"] += 1
        return found

    def _position(self) -> int:
        """Return the length of the log when everything that was sent so far is in it."""
        self._markers += 1
        marker = f"SELECT 'marker {self._markers} of {id(self)}'"
        self._server.execute(marker)
        at = -1

        def is_there() -> bool:
            nonlocal at
            at = Path(self._server.log).read_bytes().find(marker.encode())
            return at >= 0

        wait_until(is_there, "the marker is in PostgreSQL's log")
        return at
