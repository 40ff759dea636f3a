"""Which libraries the `[storage]` settings need: those of two extras, which a server on SQLite and files does without."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.errors import Invalid
from boltseal.files.installation import install_command
from boltseal.loading import load
from boltseal.server.storage_settings import StorageSettings


class _Need(NamedTuple):
    """A setting, whether it is used, and the extra with its library."""

    setting: str
    used: bool
    extra: str


_LIBRARIES: Final = {"postgresql": "psycopg", "s3": "obstore"}


def check_libraries(storage: StorageSettings) -> None:
    """Check that the libraries of the settings are there, before anything is opened. Raises: Invalid."""
    needs = [
        _Need("[storage] database", storage.database is not None, "postgresql"),
        _Need("[storage] blobs", storage.blobs is not None, "s3"),
        _Need("[storage.mark] url", storage.mark.shared, "s3"),
    ]
    wanted = [need for need in needs if need.used]
    missing = [need for need in wanted if not _is_there(_LIBRARIES[need.extra])]
    if missing:
        extras = ",".join(dict.fromkeys(["server", *(need.extra for need in wanted)]))
        reasons = ", ".join(f"{need.setting} needs the {need.extra} extra" for need in missing)
        raise Invalid(f"{reasons}: {install_command(extras, Path(sys.prefix))}")


def _is_there(module: str) -> bool:
    """Return whether a module is installed, and psycopg finds the C library that it works with."""
    if module != "psycopg":
        return find_spec(module) is not None  # not loaded: the server's parent process forks
    try:
        load(module)
    except ImportError:
        return False
    return True
