"""Reads releases that earlier versions of boltseal recorded, each in a folder of several files.

    STATE/releases/PROJECT/N/
      release.json, compose.json, environment.json, boltseal.lock, files/

They are copied to the engine's folder as soon as the engine is reached (`commands.engine_releases`), and left as they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from boltseal.deploy.release_file import StoredRelease
from boltseal.deploy.releases import (
    MAX_RECORD_BYTES,
    ReleaseContents,
    ReleaseUnreadable,
    check_contents,
    parse_release,
)

_MAX_BYTES: Final = 64 * 1024 * 1024


def read_earlier(folder: Path) -> StoredRelease | None:
    """Return the release in a folder; None if there is no record.

    Raises: ReleaseUnreadable, OSError.
    """
    raw = read_bounded(folder / "release.json", MAX_RECORD_BYTES)
    if raw is None:
        return None
    try:
        release = parse_release(raw)
    except ReleaseUnreadable as error:
        raise ReleaseUnreadable(f"{folder}/release.json: {error.message}") from error
    compose = read_bounded(folder / "compose.json")
    if compose is None:
        return StoredRelease(revision=0, release=release, contents=None)
    files = {}
    for name in release.files:
        found = read_bounded(folder / "files" / release.files[name])
        if found is None:
            raise ReleaseUnreadable(f"{folder}: the recorded copy of {name} is missing")
        files[name] = found
    environment = read_bounded(folder / "environment.json") or b"{}"
    try:
        check_contents(release, compose, environment)
    except ReleaseUnreadable as error:
        raise ReleaseUnreadable(
            f"{folder}/compose.json or environment.json: {error.message}. Restore it from a backup, or remove the folder "
            f"{folder.name} and give up release {release.number}"
        ) from error
    contents = ReleaseContents(compose, environment, files, read_bounded(folder / "boltseal.lock"))
    return StoredRelease(revision=0, release=release, contents=contents)


def read_bounded(path: Path, limit: int = _MAX_BYTES) -> bytes | None:
    """Return the content of a file, without following a symbolic link; None if there is no such file.

    Raises: ReleaseUnreadable: it has more than `limit` bytes; OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ReleaseUnreadable(f"{path} is too large (expected at most {limit} bytes)")
    return raw
