"""Why PostgreSQL can't be used, in words that clients may read: libpq's text without addresses, hosts and files."""

from __future__ import annotations

import re
from typing import Final

_PLACES: Final = re.compile(
    r"Multiple connection attempts failed\. All failures were: |- host: .*?, hostaddr: '[^']*': "
    r"|connection (?:failed|is bad): |connection to server (?:at|on socket) .*? failed: "
    r"| password retrieved from file \"[^\"]*\"| Is the server running .*?connections(?: on that socket)?\?"
)
_NAMES: Final = re.compile(r"(host name|user|database|role|host) \"[^\"]*\"")
_ACCESS: Final = re.compile("password|authentication|does not exist|not permitted|no pg_hba")


def unusable(text: str) -> str:
    """Return the message of a database that can't be used. `text`: the error in one line, as the driver gives it."""
    cause = _NAMES.sub(r"\1", _PLACES.sub("", text)).strip()
    advice = "check [storage] database and the file that PGPASSFILE names" if _ACCESS.search(cause) else "try again"
    return f"the registry's database can't be used ({cause}): nothing was changed; {advice}"
