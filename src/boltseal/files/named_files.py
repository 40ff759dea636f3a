"""Files and folders that the user names: a missing one is reported in one wording, and is a usage error."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from boltseal.errors import MAX_PATH, Invalid, quote


class FileMissing(Invalid):
    """A file or folder that the user names does not exist."""

    def __init__(self, path: str | PathLike[str]) -> None:
        super().__init__(f"{quote(fspath(path), MAX_PATH)[1:-1]}: no such file or folder; check the path")


def require_file(path: str | PathLike[str]) -> None:
    """Raise FileMissing unless a path exists. A path that can't be looked up is left to the code that opens it."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissing(path) from error
    except OSError:
        return
