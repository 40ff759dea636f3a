"""The point look-ups of requests on PostgreSQL: a thread answers all that wait, with one query for each kind.

A query over the network takes hundreds of microseconds, too long for the event loop's thread. While one runs, the look-ups of
other requests collect, and the next query answers all of them. A query begins after each of its look-ups was asked for, so a
pull that begins after an acknowledged push finds it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from boltseal.errors import Unavailable
from boltseal.server.storage.metadata.protocol import (
    NO_PAUSE,
    AccountRow,
    AccountVersion,
    ApiTokenRow,
    BlobFound,
    FailedLoginRow,
    ForeignTagRow,
    LookupCounts,
    Lookups,
    ManifestFound,
    PersonRow,
    TagFound,
    TokenVersion,
    UpstreamPause,
)
from boltseal.server.storage.worker_threads import deliver


class _Kind(NamedTuple):
    """One kind of look-up. `query`: returns the number of the key, from 1, before each row. `columns`: of a key."""

    query: str
    columns: int


# OFFSET 0 keeps the planner from joining in another order: one row is read by its key for each key that is asked for. It can't
# estimate how many rows match them all, and would read all tags of a repository to find one.
_ONE: Final = "FROM unnest(%s::text[]) WITH ORDINALITY AS k(a, n)"
_TWO: Final = "FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS k(a, b, n)"
_IN_REPOSITORY: Final = f"{_TWO} CROSS JOIN LATERAL (SELECT id FROM repository WHERE name = k.a OFFSET 0) r"  # noqa: S608 - constants


def _by_key(keys: str, columns: str, row: str, width: int) -> _Kind:
    """Return the kind of look-up that finds at most one row for each key. `row`: FROM and WHERE of that row."""
    return _Kind(f"SELECT k.n, x.* {keys} CROSS JOIN LATERAL (SELECT {columns} FROM {row} OFFSET 0) x", width)  # noqa: S608 - constants


_REPOSITORY: Final = _by_key(_ONE, "1", "repository WHERE name = k.a", 1)
_TAG: Final = _by_key(
    _IN_REPOSITORY,
    "digest, sealed_digest IS NOT NULL, CASE WHEN sealed_digest IS NULL THEN keep_until_us END",
    "tag WHERE repository_id = r.id AND name = k.b AND digest IS NOT NULL",
    2,
)
_BOUND: Final = _by_key(
    _IN_REPOSITORY, "sealed_digest", "tag WHERE repository_id = r.id AND name = k.b AND digest IS NULL", 2
)
_MANIFEST: Final = _by_key(
    _IN_REPOSITORY,
    "m.media_type, c.raw",
    "manifest m JOIN content c ON c.canonical = m.canonical WHERE m.repository_id = r.id AND m.digest = k.b",
    2,
)
_BLOB: Final = _by_key(
    _IN_REPOSITORY, "size, hidden_us IS NOT NULL", "blob WHERE repository_id = r.id AND digest = k.b", 2
)
_RELEASED: Final = _by_key(_ONE, "released_us", "released WHERE digest = k.a", 1)
_UPLOAD_OWNER: Final = _by_key(_TWO, "owner", "upload_session WHERE id = k.b AND repository = k.a", 2)
_FOREIGN_TAG: Final = _by_key(
    _TWO,
    "digest, media_type, size, held_digest, held_media_type, held_size, held_us, gone_us, asked_us, entry_index, changes, "
    "changes_since_us",
    "foreign_tag WHERE repository = k.a AND name = k.b",
    2,
)
_UPSTREAM_PAUSE: Final = _by_key(_ONE, "until_us, pulls_until_us, reason", "upstream_pause WHERE name = k.a", 1)
_ACCOUNT_VERSION: Final = _Kind(
    """
SELECT 1, (SELECT count(*) FROM account), changed_us, encrypted_hash FROM account ORDER BY changed_us DESC LIMIT 1
""",
    0,
)
_ACCOUNTS: Final = _Kind("SELECT 1, name, encrypted_hash FROM account", 0)
_TOKEN_VERSION: Final = _Kind(
    """
SELECT 1, (SELECT count(*) FROM api_token), (SELECT count(*) FROM service_account), (SELECT count(*) FROM person),
       (SELECT coalesce(max(changed_us), 0) FROM person), (SELECT coalesce(max(idx), -1) FROM audit_event)
""",
    0,
)
_API_TOKENS: Final = _Kind(
    "SELECT 1, id, mac, owner, kind, scope, description, created_us, created_by, expires_us, used_us FROM api_token", 0
)
_SERVICE_ACCOUNTS: Final = _Kind("SELECT 1, name FROM service_account", 0)
_PEOPLE: Final = _Kind("SELECT 1, name, issuer, subject, display_name, member_of, changed_us, mac FROM person", 0)
_LAST_LOGIN: Final = _by_key(_ONE, "login_us", "last_login WHERE name = k.a", 1)
_USERS_EXISTED: Final = _Kind("SELECT 1, id FROM users_existed", 0)
_FAILED_LOGIN: Final = _by_key(_ONE, "failures, last_us", "failed_login WHERE address = k.a", 1)

_Key = tuple[str, ...]


class _Driver(Protocol):
    """The psycopg connection, as far as the look-ups use it."""

    def execute(self, query: bytes, values: Sequence[object], *, binary: bool) -> Any:
        """Run a query and return its cursor."""
        ...


class LookupSession(Protocol):
    """A session of `postgres.PostgresDriver`, outside any transaction."""

    @property
    def driver(self) -> _Driver:
        """The connection."""
        ...

    @property
    def usable(self) -> bool:
        """Whether the connection still works."""
        ...

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into the registry's."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A look-up that waits. `future` gets the rows."""

    kind: _Kind
    key: _Key
    future: asyncio.Future[list[Any]]


@dataclass(slots=True)
class _Waiting:
    """What the event loop hands over to the thread."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    asked: list[_Asked] = field(default_factory=list)
    closed: bool = False

    def put(self, asked: _Asked) -> None:
        """Add a look-up. Raises: Unavailable: closed."""
        with self.changed:
            if self.closed:
                raise Unavailable("the registry is shutting down; try again")
            self.asked.append(asked)
            self.changed.notify()

    def take(self) -> list[_Asked]:
        """Wait for look-ups and return all; none when closed and empty."""
        with self.changed:
            while not self.asked and not self.closed:
                self.changed.wait()
            taken, self.asked = self.asked, []
            return taken

    def close(self) -> None:
        """Take no more look-ups."""
        with self.changed:
            self.closed = True
            self.changed.notify()


class PostgresLookups:
    """The look-ups of one database, with a thread and a connection of their own. `connect` may raise Unavailable."""

    def __init__(self, connect: Callable[[], LookupSession]) -> None:
        self._connect = connect
        self._session: LookupSession | None = None
        self._waiting = _Waiting()
        self._thread: threading.Thread | None = None
        self.counts = LookupCounts()
        self.lookups = Lookups(
            content=_ContentLookups(self),
            uploads=_UploadLookups(self),
            upstreams=_UpstreamLookups(self),
            logins=_LoginLookups(self),
            tokens=_TokenLookups(self),
            counts=self.counts,
        )

    async def first_row(self, kind: _Kind, *key: str) -> Any:
        """Return the first row, or None. Called on the event loop. Raises: Unavailable."""
        rows = await self.rows(kind, *key)
        return rows[0] if rows else None

    async def rows(self, kind: _Kind, *key: str) -> list[Any]:
        """Return all rows. Called on the event loop. Raises: Unavailable."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Asked(kind, key, future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="boltseal-lookups", daemon=True)
            self._thread.start()
        return await future

    def close(self) -> None:
        """Answer what waits, then close the connection. Idempotent."""
        self._waiting.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _run(self) -> None:
        while asked := self._waiting.take():
            kinds: dict[_Kind, list[_Asked]] = {}
            for each in asked:
                kinds.setdefault(each.kind, []).append(each)
            for kind, some in kinds.items():
                self._answer(kind, some)

    def _answer(self, kind: _Kind, asked: Sequence[_Asked]) -> None:
        """Answer look-ups of one kind with one query. A connection that broke while it was idle is opened again."""
        keys = list(dict.fromkeys(each.key for each in asked))
        try:
            was_open = self._session is not None and self._session.usable
            try:
                found = self._query(kind, keys)
            except Unavailable:
                if not was_open or (self._session is not None and self._session.usable):
                    raise
                found = self._query(kind, keys)
        except BaseException as error:  # noqa: BLE001 - the outermost frame of this thread: every caller must get the error
            for each in asked:
                deliver(each.future, None, error)
            return
        self.counts.asked += len(asked)
        for each in asked:
            deliver(each.future, found.get(each.key, []), None)

    def _query(self, kind: _Kind, keys: Sequence[_Key]) -> Mapping[_Key, list[Any]]:
        if self._session is not None and not self._session.usable:
            self._session.close()
            self._session = None
        if self._session is None:
            self._session = self._connect()
        values = [list(column) for column in zip(*keys, strict=True)]
        with self._session.errors_named():
            rows = self._session.driver.execute(kind.query.encode(), values, binary=True).fetchall()
        self.counts.queries += 1
        found: dict[_Key, list[Any]] = {}
        for number, *row in rows:
            found.setdefault(keys[number - 1], []).append(row)
        return found


class _ContentLookups:
    """`ContentLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def repository(self, name: str) -> bool:
        """Return whether a repository of this name exists or ever existed."""
        return await self._ask.first_row(_REPOSITORY, name) is not None

    async def tag(self, repository: str, name: str) -> TagFound | None:
        """Return what a tag resolves to, or None if there is no such tag now."""
        row = await self._ask.first_row(_TAG, repository, name)
        return None if row is None else TagFound(*row)

    async def bound(self, repository: str, name: str) -> str | None:
        """Return the digest in the tombstone of a deleted tag, or None if the tag has no tombstone."""
        row = await self._ask.first_row(_BOUND, repository, name)
        return None if row is None else row[0]

    async def manifest(self, repository: str, digest: str) -> ManifestFound | None:
        """Return a manifest as it was pushed, or None if this repository does not have it."""
        row = await self._ask.first_row(_MANIFEST, repository, digest)
        return None if row is None else ManifestFound(*row)

    async def blob(self, repository: str, digest: str) -> BlobFound | None:
        """Return a blob of this repository, hidden or not, or None."""
        row = await self._ask.first_row(_BLOB, repository, digest)
        return None if row is None else BlobFound(row[0], bool(row[1]))


class _UploadLookups:
    """`UploadLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def released(self, digest: str) -> int | None:
        """Return when the last row of any repository that referred to a blob was removed; None if there was none."""
        row = await self._ask.first_row(_RELEASED, digest)
        return None if row is None else int(row[0])

    async def upload_owner(self, repository: str, upload: str) -> str | None:
        """Return who began an upload session of this repository, as its row has it; None if there is no row."""
        row = await self._ask.first_row(_UPLOAD_OWNER, repository, upload)
        return None if row is None else str(row[0])


class _UpstreamLookups:
    """`UpstreamLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def foreign_tag(self, repository: str, name: str) -> ForeignTagRow | None:
        """Return the state of an upstream's tag, or None if the upstream was never seen to have it."""
        row = await self._ask.first_row(_FOREIGN_TAG, repository, name)
        return None if row is None else ForeignTagRow(*row)

    async def upstream_pause(self, name: str) -> UpstreamPause:
        """Return the pause of an upstream; one that is over if there is none."""
        row = await self._ask.first_row(_UPSTREAM_PAUSE, name)
        return NO_PAUSE if row is None else UpstreamPause(*row)


class _LoginLookups:
    """`LoginLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def account_version(self) -> AccountVersion:
        """Return what differs after every change of the users."""
        row = await self._ask.first_row(_ACCOUNT_VERSION)
        return AccountVersion(0, 0, "") if row is None else AccountVersion(*row)

    async def accounts(self) -> list[AccountRow]:
        """Return every user."""
        return [AccountRow(*row) for row in await self._ask.rows(_ACCOUNTS)]

    async def users_existed(self) -> bool:
        """Return whether there was a user once."""
        return await self._ask.first_row(_USERS_EXISTED) is not None

    async def failed_login(self, address: str) -> FailedLoginRow | None:
        """Return the failed logins of an address, or None if there is no row."""
        row = await self._ask.first_row(_FAILED_LOGIN, address)
        return None if row is None else FailedLoginRow(*row)


class _TokenLookups:
    """`TokenLookups` by queries for many."""

    def __init__(self, ask: PostgresLookups) -> None:
        self._ask = ask

    async def token_version(self) -> TokenVersion:
        """Return what differs after every change of API tokens, service accounts and people."""
        return TokenVersion(*await self._ask.first_row(_TOKEN_VERSION))

    async def api_tokens(self) -> list[ApiTokenRow]:
        """Return every API token."""
        return [ApiTokenRow(*row) for row in await self._ask.rows(_API_TOKENS)]

    async def service_accounts(self) -> list[str]:
        """Return the name of every service account."""
        return [str(row[0]) for row in await self._ask.rows(_SERVICE_ACCOUNTS)]

    async def people(self) -> list[PersonRow]:
        """Return every person who logged in by an identity provider."""
        return [PersonRow(*row) for row in await self._ask.rows(_PEOPLE)]

    async def last_login(self, name: str) -> int | None:
        """Return when a user logged in last, None if never."""
        row = await self._ask.first_row(_LAST_LOGIN, name)
        return None if row is None else int(row[0])
