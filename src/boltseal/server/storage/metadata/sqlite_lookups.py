"""The point look-ups of requests on SQLite, as plain text on the driver's connection.

They run for nearly every request, and SQLAlchemy costs ten times the query. They read a local file by a key in about 10 us,
less than a hand-over to a thread, so they run on the event loop's thread. They are coroutines because on another database
they are not local.
"""

from __future__ import annotations

from typing import Any

from boltseal.server.storage.metadata.protocol import (
    NO_PAUSE,
    AccountRow,
    AccountVersion,
    ApiTokenRow,
    BlobFound,
    FailedLoginRow,
    ForeignTagRow,
    Lookups,
    ManifestFound,
    PersonRow,
    TagFound,
    TokenVersion,
    UpstreamPause,
)
from boltseal.server.storage.metadata.sql import SqlStatements

_REPOSITORY = "SELECT 1 FROM repository WHERE name = ?"
_TAG = """
SELECT t.digest, t.sealed_digest IS NOT NULL, CASE WHEN t.sealed_digest IS NULL THEN t.keep_until_us END
FROM repository r JOIN tag t ON t.repository_id = r.id
WHERE r.name = ? AND t.name = ? AND t.digest IS NOT NULL
"""
_BOUND = """
SELECT t.sealed_digest
FROM repository r JOIN tag t ON t.repository_id = r.id
WHERE r.name = ? AND t.name = ? AND t.digest IS NULL
"""
_MANIFEST = """
SELECT m.media_type, c.raw
FROM repository r JOIN manifest m ON m.repository_id = r.id JOIN content c ON c.canonical = m.canonical
WHERE r.name = ? AND m.digest = ?
"""
_BLOB = """
SELECT b.size, b.hidden_us IS NOT NULL
FROM repository r JOIN blob b ON b.repository_id = r.id WHERE r.name = ? AND b.digest = ?
"""
_RELEASED = "SELECT released_us FROM released WHERE digest = ?"
_UPLOAD_OWNER = "SELECT owner FROM upload_session WHERE id = ? AND repository = ?"
_FOREIGN_TAG = """
SELECT digest, media_type, size, held_digest, held_media_type, held_size, held_us, gone_us, asked_us, entry_index,
       changes, changes_since_us
FROM foreign_tag WHERE repository = ? AND name = ?
"""
_UPSTREAM_PAUSE = "SELECT until_us, pulls_until_us, reason FROM upstream_pause WHERE name = ?"
_ACCOUNT_VERSION = """
SELECT (SELECT count(*) FROM account), changed_us, encrypted_hash FROM account ORDER BY changed_us DESC LIMIT 1
"""
_ACCOUNTS = "SELECT name, encrypted_hash FROM account"
_VERSION_OF_TOKENS = """
SELECT (SELECT count(*) FROM api_token), (SELECT count(*) FROM service_account), (SELECT count(*) FROM person),
       (SELECT coalesce(max(changed_us), 0) FROM person), (SELECT coalesce(max(idx), -1) FROM audit_event)
"""
_API_TOKENS = """
SELECT id, mac, owner, kind, scope, description, created_us, created_by, expires_us, used_us FROM api_token
"""
_SERVICE_ACCOUNTS = "SELECT name FROM service_account"
_PEOPLE = "SELECT name, issuer, subject, display_name, member_of, changed_us, mac FROM person"
_LAST_LOGIN = "SELECT login_us FROM last_login WHERE name = ?"
_USERS_EXISTED = "SELECT id FROM users_existed"
_FAILED_LOGIN = "SELECT failures, last_us FROM failed_login WHERE address = ?"


def sqlite_lookups(statements: SqlStatements) -> Lookups:
    """Return the look-ups of one connection, for one thread."""
    query = _Query(statements)
    return Lookups(
        content=_ContentLookups(query),
        uploads=_UploadLookups(query),
        upstreams=_UpstreamLookups(query),
        logins=_LoginLookups(query),
        tokens=_TokenLookups(query),
    )


class _Query:
    """Queries of one session, with the registry's errors."""

    def __init__(self, statements: SqlStatements) -> None:
        self._plain = statements.plain
        self._errors_named = statements.errors_named

    def first_row(self, query: str, values: tuple[str, ...]) -> Any:
        """Return the first row, or None."""
        try:
            return self._plain(query, values).fetchone()
        except Exception:
            with self._errors_named():  # only for an error: entering it costs a tenth of a query
                raise

    def all_rows(self, query: str) -> list[Any]:
        """Return every row."""
        with self._errors_named():
            return self._plain(query, ()).fetchall()


class _ContentLookups:
    """`ContentLookups` of one session."""

    def __init__(self, query: _Query) -> None:
        self._query = query

    async def repository(self, name: str) -> bool:
        """Return whether a repository of this name exists or ever existed."""
        return self._query.first_row(_REPOSITORY, (name,)) is not None

    async def tag(self, repository: str, name: str) -> TagFound | None:
        """Return what a tag resolves to, or None if there is no such tag now."""
        row = self._query.first_row(_TAG, (repository, name))
        return None if row is None else TagFound(row[0], bool(row[1]), row[2])

    async def bound(self, repository: str, name: str) -> str | None:
        """Return the digest in the tombstone of a deleted tag, or None if the tag has no tombstone."""
        row = self._query.first_row(_BOUND, (repository, name))
        return None if row is None else row[0]

    async def manifest(self, repository: str, digest: str) -> ManifestFound | None:
        """Return a manifest as it was pushed, or None if this repository does not have it."""
        row = self._query.first_row(_MANIFEST, (repository, digest))
        return None if row is None else ManifestFound(row[0], row[1])

    async def blob(self, repository: str, digest: str) -> BlobFound | None:
        """Return a blob of this repository, hidden or not, or None."""
        row = self._query.first_row(_BLOB, (repository, digest))
        return None if row is None else BlobFound(row[0], bool(row[1]))


class _UploadLookups:
    """`UploadLookups` of one session."""

    def __init__(self, query: _Query) -> None:
        self._query = query

    async def released(self, digest: str) -> int | None:
        """Return when the last row of any repository that referred to a blob was removed; None if there was none."""
        row = self._query.first_row(_RELEASED, (digest,))
        return None if row is None else int(row[0])

    async def upload_owner(self, repository: str, upload: str) -> str | None:
        """Return who began an upload session of this repository, as its row has it; None if there is no row."""
        row = self._query.first_row(_UPLOAD_OWNER, (upload, repository))
        return None if row is None else str(row[0])


class _UpstreamLookups:
    """`UpstreamLookups` of one session."""

    def __init__(self, query: _Query) -> None:
        self._query = query

    async def foreign_tag(self, repository: str, name: str) -> ForeignTagRow | None:
        """Return the state of an upstream's tag, or None if the upstream was never seen to have it."""
        row = self._query.first_row(_FOREIGN_TAG, (repository, name))
        return None if row is None else ForeignTagRow(*row)

    async def upstream_pause(self, name: str) -> UpstreamPause:
        """Return the pause of an upstream; one that is over if there is none."""
        row = self._query.first_row(_UPSTREAM_PAUSE, (name,))
        return NO_PAUSE if row is None else UpstreamPause(*row)


class _LoginLookups:
    """`LoginLookups` of one session."""

    def __init__(self, query: _Query) -> None:
        self._query = query

    async def account_version(self) -> AccountVersion:
        """Return what differs after every change of the users."""
        row = self._query.first_row(_ACCOUNT_VERSION, ())
        return AccountVersion(0, 0, "") if row is None else AccountVersion(*row)

    async def accounts(self) -> list[AccountRow]:
        """Return every user."""
        return [AccountRow(*row) for row in self._query.all_rows(_ACCOUNTS)]

    async def users_existed(self) -> bool:
        """Return whether there was a user once."""
        return self._query.first_row(_USERS_EXISTED, ()) is not None

    async def failed_login(self, address: str) -> FailedLoginRow | None:
        """Return the failed logins of an address, or None if there is no row."""
        row = self._query.first_row(_FAILED_LOGIN, (address,))
        return None if row is None else FailedLoginRow(*row)


class _TokenLookups:
    """`TokenLookups` of one session."""

    def __init__(self, query: _Query) -> None:
        self._query = query

    async def token_version(self) -> TokenVersion:
        """Return what differs after every change of API tokens, service accounts and people."""
        return TokenVersion(*self._query.first_row(_VERSION_OF_TOKENS, ()))

    async def api_tokens(self) -> list[ApiTokenRow]:
        """Return every API token."""
        return [ApiTokenRow(*row) for row in self._query.all_rows(_API_TOKENS)]

    async def service_accounts(self) -> list[str]:
        """Return the name of every service account."""
        return [str(row[0]) for row in self._query.all_rows(_SERVICE_ACCOUNTS)]

    async def people(self) -> list[PersonRow]:
        """Return every person who logged in by an identity provider."""
        return [PersonRow(*row) for row in self._query.all_rows(_PEOPLE)]

    async def last_login(self, name: str) -> int | None:
        """Return when a user logged in last, None if never."""
        row = self._query.first_row(_LAST_LOGIN, (name,))
        return None if row is None else int(row[0])
