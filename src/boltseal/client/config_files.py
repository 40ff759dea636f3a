"""Read files in which the user and other tools describe registries: bounded, and without waiting for a pipe.

Links are followed: the files are the user's own, and tools such as Kubernetes and NixOS provide them as links. A missing
file is None. Any other reason is FileUnusable, which means "could not check": the file might forbid what the client is
about to do, or have the login without which it would find less.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable, quote

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
MAX_SECRET_BYTES: Final = 64 * 1024
OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


class FileUnusable(Unavailable):
    """A file can't be read or has no valid content, so its settings are unknown. A retry would not help."""


class PasswordInvalid(FileUnusable):
    """A password file is missing, open to other users, or not one line of text."""


def read_file(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes | None:
    """Return a file's content, None if there is no such file. Raises: FileUnusable."""
    found = _read(path, max_bytes)
    return None if found is None else found[0]


def read_password(path: Path) -> str:
    """Return the one line of a password file. Raises: PasswordInvalid, FileUnusable."""
    found = _read(path, MAX_SECRET_BYTES)
    if found is None:
        raise PasswordInvalid(f"{shown(path)}: no such file")
    raw, mode = found
    if mode & OTHERS:
        raise PasswordInvalid(
            f"{shown(path)} is open to other users (mode {stat.S_IMODE(mode):04o}); a password file must not be: chmod 600"
        )
    try:
        password = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise PasswordInvalid(f"{shown(path)}: the password is not UTF-8 text") from None
    if not password or not password.isprintable():
        raise PasswordInvalid(f"{shown(path)} has no password; expected exactly one line of text")
    return password


def shown(path: Path) -> str:
    """Return a path for a message: whole, and without characters that could control a terminal."""
    text = str(path)
    return text if text.isprintable() else quote(text, len(text))


def _read(path: Path, max_bytes: int) -> tuple[bytes, int] | None:
    """Return content and mode of a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise FileUnusable(f"{shown(path)} can't be read: {getattr(error, 'strerror', error)}") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise FileUnusable(f"{shown(path)} can't be read: it is not a regular file")
    with os.fdopen(fd, "rb") as file:
        try:
            raw = file.read(max_bytes + 1)
        except OSError as error:
            raise FileUnusable(f"{shown(path)} can't be read: {error.strerror}") from error
    if len(raw) > max_bytes:
        raise FileUnusable(f"{shown(path)} can't be read: it has more than {max_bytes} bytes")
    return raw, mode
