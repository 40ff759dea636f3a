"""Keeps a data folder of SQLite read-only while its rows are moved to another storage, and afterwards: `DATA/moved`.

    DATA/moved    JSON: {"move": ID, "database": ADDRESS, "blobs": ADDRESS, "state": STATE}, without passwords

The states are `copying` (blobs are copied, and the folder takes writes), `moving` and `moved` (it takes none). Each write
transaction looks for the file after it got SQLite's write lock (`sqlite.SqliteSession.begin`). The move writes the state `moving`
while it has that lock. So no transaction of any process is committed after that, and the rows that the move reads are the last
ones. The file outlives every process. A file that can't be read closes the folder as well.

Trusted: accounts that can write the folder. If it is compromised, writes are refused, or two registries continue one ledger.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, Unavailable
from boltseal.files.atomic_files import Disk, write_file

FENCE_NAME: Final = "moved"
COPYING: Final = "copying"
MOVING: Final = "moving"
MOVED: Final = "moved"
_REFUSALS: Final = {
    COPYING: None,
    MOVING: (
        "this registry is read-only while its content is moved to another storage: pulls go on, nothing was changed; push again "
        "when the move is over"
    ),
    MOVED: (
        "this registry was moved to another storage, and this server has the former copy, which is read-only: push to the "
        "server with the new storage"
    ),
}


class DataMoved(Unavailable):
    """The data folder is being moved or was moved, so nothing may be written to it. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The move of a folder. `database`, `blobs`: where to."""

    move: str
    database: str
    blobs: str
    state: str


def refusal(path: str) -> str | None:
    """Return why the folder with this file takes no writes; None: it takes them, without the file or in the state `copying`."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError:
        return _REFUSALS[MOVING]
    try:
        return _REFUSALS[_parse(Path(path)).state]
    except Invalid:
        return _REFUSALS[MOVING]


def read_fence(data: Path) -> Fence | None:
    """Return the move of a folder, None if there is none. Raises: Invalid: the file can't be read."""
    path = data / FENCE_NAME
    return _parse(path) if os.path.lexists(path) else None


def put_fence(data: Path, fence: Fence) -> None:
    """Note the state of a move. Durable when this returns. Raises: OSError."""
    write_file(Disk(), data / FENCE_NAME, f"{json.dumps(asdict(fence))}\n".encode())


def remove_fence(data: Path) -> None:
    """Open a folder again. Durable when this returns. Raises: OSError."""
    (data / FENCE_NAME).unlink(missing_ok=True)
    Disk().sync_folder(os.fspath(data))


def _parse(path: Path) -> Fence:
    try:
        fields = json.loads(path.read_bytes())
        fence = Fence(*(str(fields[name]) for name in ("move", "database", "blobs", "state")))
        if fence.state not in _REFUSALS:
            raise ValueError(f"it has the state {fence.state!r}")
        return fence
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"{path} can't be read, so it is not known where this data was moved: {error or type(error).__name__}; restore "
            "the file from a copy"
        ) from error
