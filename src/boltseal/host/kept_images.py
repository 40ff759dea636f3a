"""What a client keeps on engines, remembered: `kept.db` in the state folder (SQLite), because engines lose it.

    kept    an image that a name meant: its keep tag, its registry digest, until when it was promised, where a copy lies
    came    by which digest an image was pulled, and what proves that it is that one
    ran     when an image was last seen under a container
    held    who else needs an image, and until when (a release)
    locks   lock files whose images are never let go of; a path as in a URL, for it may hold any bytes

All rows stand under the engine's address. Docker's classic store forgets the registry's digest with the last name of an
image, containerd's with the name that moves on; Podman keeps two and does not say which is which.

The file is the user's own; it is read as if it were not: a row that can't be one is StateUnusable, and nothing is done
by it. Without the file nothing is lost but these words: the images stand under their keep tags, and are found by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote as quote_path
from urllib.parse import unquote_to_bytes

from boltseal.client.state import ClientState, StateUnusable
from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag

T = TypeVar("T")

FORMAT: Final = 1
LOCK_TIMEOUT_S: Final = 60.0
MAX_ROWS: Final = 100_000
_POLL_S: Final = 0.05
_BUSY_S: Final = 10.0
_FORGET_RAN_US: Final = 400 * 86_400_000_000

_SCHEMA: Final = (
    """CREATE TABLE kept (
        engine TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
        tag TEXT NOT NULL, kept_us INTEGER NOT NULL, until_us INTEGER, keep INTEGER, copy TEXT NOT NULL,
        PRIMARY KEY (engine, name, image)
    ) STRICT""",
    """CREATE TABLE came (
        engine TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, repository TEXT NOT NULL,
        media_type TEXT NOT NULL, proof TEXT NOT NULL, came_us INTEGER NOT NULL,
        PRIMARY KEY (engine, image, digest, repository)
    ) STRICT""",
    """CREATE TABLE ran (
        engine TEXT NOT NULL, image TEXT NOT NULL, seen_us INTEGER NOT NULL, PRIMARY KEY (engine, image)
    ) STRICT""",
    """CREATE TABLE held (
        engine TEXT NOT NULL, image TEXT NOT NULL, reason TEXT NOT NULL, until_us INTEGER,
        PRIMARY KEY (engine, image, reason)
    ) STRICT""",
    "CREATE TABLE locks (path TEXT NOT NULL PRIMARY KEY) STRICT",
    f"PRAGMA user_version = {FORMAT}",
)
_MOVE_IT: Final = "where it is damaged, move it away: kept images stay under their keep tags, and are found by them"

_HINTS: Final = {
    sqlite3.SQLITE_FULL: "make room, or name another folder by BOLTSEAL_STATE",
    sqlite3.SQLITE_BUSY: "another program holds it; try again",
}


class KeptBusy(Unavailable):
    """Another boltseal gives names to images, and takes its time."""


class Proof(StrEnum):
    """What says that an image is what a digest means."""

    IDENTICAL = "identical"  # its ID is that digest
    MANIFEST = "manifest"  # manifests, hashed here, lead from the digest to its ID
    LOCK = "lock"  # a project's lock says that this ID is behind the digest
    ENGINE = "engine"  # the engine says so, which has hashed what it pulled


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image that `name` (with a tag) meant.

    `digest`: the registry's, None where none is known (built here). `tag`: its keep tag, in the repository of `name`.
    `until_us`, `keep`: what was promised when it was kept; None for no end. `copy`: where else it lies.
    """

    name: Reference
    image: Digest
    digest: Digest | None
    media_type: str
    tag: Tag
    kept_us: int
    until_us: int | None = None
    keep: int | None = None
    copy: Reference | None = None

    @property
    def keep_name(self) -> Reference:
        """The name that keeps it."""
        return Reference(self.name.registry, self.name.repository, self.tag)


@dataclass(frozen=True, slots=True)
class PullRecord:
    """How an image came: by which digest of which repository (`registry/repository`)."""

    image: Digest
    digest: Digest
    repository: str
    media_type: str
    proof: Proof
    came_us: int


@dataclass(frozen=True, slots=True)
class KeepReason:
    """Somebody's need of an image. `until_us`: None for as long as the reason stands."""

    image: Digest
    reason: str
    until_us: int | None


class KeptImages:
    """The file. It is made by the first thing that is written; each write is one transaction, synced."""

    def __init__(self, state: ClientState, *, patience_s: float = LOCK_TIMEOUT_S, max_rows: int = MAX_ROWS) -> None:
        self._state = state
        self._patience_s = patience_s
        self._max_rows = max_rows
        self.path = state.folder / "kept.db"

    def kept(self, engine: str, name: Reference | None = None) -> tuple[KeptImage, ...]:
        """What is kept on an engine, of one name or of all, the newest first. StateUnusable."""
        where, values = ("", (engine,)) if name is None else (" AND name = ?", (engine, str(name)))
        rows = self._rows(
            "SELECT name, image, digest, media_type, tag, kept_us, until_us, keep, copy FROM kept "  # noqa: S608 - `where` is ours
            f"WHERE engine = ?{where} ORDER BY kept_us DESC, rowid DESC",
            values,
        )
        return tuple(self._parsed(_kept, row) for row in rows)

    def came(self, engine: str, image: Digest) -> tuple[PullRecord, ...]:
        """By which digests an image came, the newest first. StateUnusable."""
        rows = self._rows(
            "SELECT image, digest, repository, media_type, proof, came_us FROM came WHERE engine = ? AND image = ? "
            "ORDER BY came_us DESC",
            (engine, str(image)),
        )
        return tuple(self._parsed(_came, row) for row in rows)

    def ran(self, engine: str) -> dict[Digest, int]:
        """When each image was last seen under a container, in microseconds since 1970. StateUnusable."""
        rows = self._rows("SELECT image, seen_us FROM ran WHERE engine = ?", (engine,))
        return dict(self._parsed(_ran, row) for row in rows)

    def held(self, engine: str) -> tuple[KeepReason, ...]:
        """Who needs which image. StateUnusable."""
        rows = self._rows("SELECT image, reason, until_us FROM held WHERE engine = ?", (engine,))
        return tuple(self._parsed(_held, row) for row in rows)

    def locks(self) -> tuple[Path, ...]:
        """The lock files that were named so far. StateUnusable."""
        rows = self._rows("SELECT path FROM locks ORDER BY path", ())
        return tuple(self._parsed(_path, row) for row in rows)

    def keep(self, engine: str, kept: KeptImage) -> None:
        """Remember a kept image; a later promise replaces an earlier one, and never shortens it. StateUnusable."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "digest = iif(excluded.digest = '', digest, excluded.digest), media_type = excluded.media_type, "
                "tag = excluded.tag, kept_us = excluded.kept_us, "
                "until_us = iif(until_us IS NULL OR excluded.until_us IS NULL, until_us, max(until_us, excluded.until_us)), "
                "keep = excluded.keep, copy = iif(excluded.copy = '', copy, excluded.copy)",
                (engine, *_row(kept)),
            )

    def forget(self, engine: str, kept: KeptImage) -> None:
        """A kept image is kept no more. StateUnusable."""
        with self._writing() as database:
            database.execute(
                "DELETE FROM kept WHERE engine = ? AND name = ? AND image = ?",
                (engine, str(kept.name), str(kept.image)),
            )

    def remember(self, engine: str, came: PullRecord) -> None:
        """Remember by which digest an image came. StateUnusable."""
        with self._writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO came VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    engine,
                    str(came.image),
                    str(came.digest),
                    came.repository,
                    came.media_type,
                    came.proof,
                    came.came_us,
                ),
            )

    def saw_running(self, engine: str, images: Iterable[Digest], now_us: int) -> None:
        """These images have containers now. StateUnusable."""
        with self._writing() as database:
            database.executemany(
                "INSERT OR REPLACE INTO ran VALUES (?, ?, ?)", [(engine, str(image), now_us) for image in images]
            )
            database.execute("DELETE FROM ran WHERE engine = ? AND seen_us < ?", (engine, now_us - _FORGET_RAN_US))

    def hold(self, engine: str, held: KeepReason) -> None:
        """Somebody needs an image. StateUnusable."""
        with self._writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)",
                (engine, str(held.image), held.reason, held.until_us),
            )

    def let_go(self, engine: str, reason: str, images: Sequence[Digest] | None = None) -> None:
        """Nobody needs these images (None: any) for this reason any more. StateUnusable."""
        with self._writing() as database:
            if images is None:
                database.execute("DELETE FROM held WHERE engine = ? AND reason = ?", (engine, reason))
            for image in images or ():
                database.execute(
                    "DELETE FROM held WHERE engine = ? AND reason = ? AND image = ?", (engine, reason, str(image))
                )

    def know_lock(self, path: Path) -> None:
        """A lock file, by its absolute path, whose images are not let go of as long as it is there. StateUnusable."""
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO locks VALUES (?)", (quote_path(os.fsencode(path)),))

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Whoever gives names to images does it alone: among processes, and among tasks of one. KeptBusy, StateUnusable."""
        with self._state.writing():
            path = self._state.folder / "kept.lock"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            await _locked(fd, path, self._patience_s)
            yield
        finally:
            os.close(fd)

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        self._state.check_format()
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StateUnusable(f"{self.path} can't be read: {error.strerror}") from error
        with self._opened() as database:
            made = self._format(database)  # not yet, where whoever made the file came no further
            found = database.execute(query, values).fetchmany(self._max_rows + 1) if made else []
        if len(found) > self._max_rows:
            raise StateUnusable(f"{self.path} has more than {self._max_rows} rows of a kind; {_MOVE_IT}")
        return found

    def _parsed(self, parse: Callable[[tuple[Any, ...]], T], row: tuple[Any, ...]) -> T:
        try:
            return parse(row)
        except (BoltsealError, ValueError) as error:
            reason = error.message if isinstance(error, BoltsealError) else error
            raise StateUnusable(f"{self.path} holds what can't be there: {reason}; {_MOVE_IT}") from error

    def _format(self, database: sqlite3.Connection) -> bool:
        """Whether its tables are there. StateUnusable where they are not ours."""
        (found,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if found not in (0, FORMAT) or (found == 0 and tables):
            raise StateUnusable(f"{self.path} has format {found}; this boltseal reads format {FORMAT}")
        return bool(found)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, begun by making the file where there is none."""
        with self._state.writing():
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.close(fd)
            with self._opened() as database:
                database.execute("BEGIN IMMEDIATE")
                for statement in () if self._format(database) else _SCHEMA:
                    database.execute(statement)
                yield database
                database.execute("COMMIT")  # closed without it, nothing has happened

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote_path(str(self.path.absolute()))}?mode=rw"  # a reader, too, ends what a crash has left
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)) as database:
                database.execute("PRAGMA trusted_schema = OFF")
                database.execute("PRAGMA synchronous = FULL")
                yield database
        except sqlite3.Error as error:
            hint = _HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, _MOVE_IT)
            raise StateUnusable(f"{self.path} can't be used: {error}; {hint}") from error


async def _locked(fd: int, path: Path, patience_s: float) -> None:
    """Wait for the lock, without keeping other tasks of this process from letting go of it. KeptBusy."""
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise KeptBusy(
            f"another boltseal gives names to images for more than {patience_s:.0f} s ({path}); try again when it is done"
        ) from None


def _kept(row: tuple[Any, ...]) -> KeptImage:
    name, image, digest, media_type, tag, kept_us, until_us, keep, copy = row
    found = KeptImage(
        Reference.parse(name),
        Digest.parse(image),
        Digest.parse(digest) if digest else None,
        media_type,
        Tag(tag),
        kept_us,
        until_us,
        keep,
        Reference.parse(copy) if copy else None,
    )
    if found.name.tag is None or found.name.digest is not None:
        raise ValueError(f"{name} is no name with a tag")
    return found


def _row(kept: KeptImage) -> tuple[Any, ...]:
    digest, copy = ("" if each is None else str(each) for each in (kept.digest, kept.copy))
    named = (str(kept.name), str(kept.image), digest, kept.media_type, str(kept.tag))
    return (*named, kept.kept_us, kept.until_us, kept.keep, copy)


def _came(row: tuple[Any, ...]) -> PullRecord:
    image, digest, repository, media_type, proof, came_us = row
    return PullRecord(Digest.parse(image), Digest.parse(digest), repository, media_type, Proof(proof), came_us)


def _ran(row: tuple[Any, ...]) -> tuple[Digest, int]:
    return Digest.parse(row[0]), row[1]


def _held(row: tuple[Any, ...]) -> KeepReason:
    return KeepReason(Digest.parse(row[0]), row[1], row[2])


def _path(row: tuple[Any, ...]) -> Path:
    path = Path(os.fsdecode(unquote_to_bytes(row[0])))
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError(f"{row[0]} is no absolute path")
    return path
