"""Sessions of people on the pages: a random cookie, of which the database has only the hash.

The checks of a cookie, in this order:

1. a row has its hash, which is read for each request: a session that was ended is ended at every server
2. the message authentication code of the cookie and of all that gives the session rights, in constant time
3. neither its life nor the time without a request is over
4. its owner exists, and has the password (or is the person of the provider) that the session was begun with

A login always gets a new cookie, so that a cookie that an attacker placed in a browser is worth nothing after it. A session has
the rights of its owner now. API tokens do not depend on sessions.

What a session's pages change is protected by a token in each form, which is made from the cookie and so is of this session alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.page_settings import SessionTerms
from boltseal.server.storage.metadata import (
    account_table,
    api_token_table,
    audit_table,
    person_table,
    session_table,
)
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.session_table import PageSessionRow

MAX_PER_OWNER: Final = 50
"""Sessions of one user; a further login ends the oldest."""
SEEN_EVERY_US: Final = 60_000_000
COOKIE_CHARACTERS: Final = 43
_PURPOSE: Final = "session of pages"
"""Separates the code of a session from that of an API token, whose first part has no such text."""
_FORM: Final = b"boltseal form v1"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to begin. `login`: differs for each password of the owner. `how`: for the audit log."""

    owner: str
    login: str
    address: str
    how: str


@dataclass(frozen=True, slots=True)
class PageSession:
    """A session whose cookie was checked. `cookie`: secret. Times in microseconds since the epoch."""

    cookie: str
    owner: str
    login: str
    address: str
    began_us: int
    ends_us: int
    seen_us: int

    @property
    def cookie_sha256(self) -> str:
        """The name of its row."""
        return _hash(self.cookie)

    @property
    def form_token(self) -> str:
        """What each form of this session has, and other web servers cannot know."""
        return form_token(self.cookie)


def random_cookie() -> str:
    """Return a new cookie: 256 random bits."""
    return secrets.token_urlsafe(32)


def form_token(cookie: str) -> str:
    """Return the token of forms that are sent together with a cookie. It does not reveal the cookie."""
    return hmac.new(cookie.encode(), _FORM, hashlib.sha256).hexdigest()


def is_form_token(cookie: str, given: str) -> bool:
    """Return whether a form has the token of its cookie."""
    return hmac.compare_digest(form_token(cookie), given.encode("ascii", "replace").decode("ascii"))


class PageSessions:
    """The sessions of one registry, as one process sees them."""

    def __init__(self, accounts: AccountRows, terms: SessionTerms) -> None:
        self._database = accounts.database
        self._key = accounts.key
        self.terms = terms

    @property
    def now_us(self) -> int:
        """The time of the database."""
        return self._database.now_us()

    async def begin(self, new: NewSession) -> str:
        """Begin a session, and return its cookie. Raises: Unavailable, Full, UserKeyUnreadable."""
        cookie = random_cookie()
        await self._database.write(lambda tx: self.add(tx, cookie, new))
        return cookie

    def add(self, tx: UnitOfWork, cookie: str, new: NewSession) -> None:
        """Begin a session in this transaction, note the login, and record it. `cookie`: from `random_cookie`."""
        ends_us = tx.now_us + self.terms.life_us
        row = PageSessionRow(_hash(cookie), new.owner, new.login, new.address, tx.now_us, ends_us, tx.now_us, "")
        row = row._replace(mac=self._code(cookie, row, may_create=may_create_key(tx)))
        session_table.expire(tx, tx.now_us)
        session_table.add(tx, row, most=MAX_PER_OWNER)
        api_token_table.note_login(tx, new.owner, tx.now_us)
        audit_table.record(tx, new.owner, "login", new.owner, f"{new.how}; from {new.address}")

    async def find(self, cookie: str) -> PageSession | None:
        """Return the session of a cookie (checks 1 to 3), None if there is none. Raises: Unavailable, UserKeyUnreadable."""
        if len(cookie) != COOKIE_CHARACTERS or not cookie.isascii():
            return None
        hashed = _hash(cookie)
        # 1
        row = await self._database.read(partial(session_table.find, cookie_sha256=hashed))
        # 2
        if row is None or not hmac.compare_digest(self._code(cookie, row), row.mac):
            return None
        # 3
        now_us = self._database.now_us()
        if now_us >= min(row.ends_us, row.seen_us + self.terms.idle_us):
            return None
        if now_us - row.seen_us >= SEEN_EVERY_US:
            await self._note_seen(hashed, now_us)
        return PageSession(cookie, row.owner, row.login, row.address, row.began_us, row.ends_us, row.seen_us)

    async def _note_seen(self, hashed: str, now_us: int) -> None:
        try:
            await self._database.write(lambda tx: session_table.note_seen(tx, hashed, now_us), durable=False)
        except BoltsealError as error:  # such as a full disk: the session ends sooner
            _log.warning("the time of a session's last request was not written", reason=error.message)

    async def of_owner(self, owner: str) -> list[PageSessionRow]:
        """Return the sessions of a user that have not ended, the newest first."""
        now_us = self._database.now_us()
        rows = await self._database.read(partial(session_table.of_owner, owner=owner))
        return [row for row in rows if now_us < min(row.ends_us, row.seen_us + self.terms.idle_us)]

    async def end(self, session: PageSession) -> None:
        """End a session. When this returns, no server accepts its cookie. Raises: Unavailable, Full."""

        def job(tx: UnitOfWork) -> None:
            if session_table.remove(tx, _hash(session.cookie)):
                audit_table.record(tx, session.owner, "logout", session.owner, f"from {session.address}")

        await self._database.write(job)

    async def end_all(self, owner: str, address: str) -> int:
        """End all sessions of a user. When this returns, no server accepts one of their cookies. Return how many. Raises: as `end`."""

        def job(tx: UnitOfWork) -> int:
            number = session_table.remove_of_owner(tx, owner)
            audit_table.record(tx, owner, "logout.everywhere", owner, f"{number} sessions; from {address}")
            return number

        return await self._database.write(job)

    async def note_failure(self, name: str, address: str, reason: str) -> None:
        """Record a login that failed. `name`: of a user who exists, "" of others: it may be a password in the wrong field."""

        def job(tx: UnitOfWork) -> None:
            audit_table.record(tx, "anonymous", "login.failed", name or "unknown user", f"{reason}; from {address}")

        try:
            await self._database.write(job, durable=False)
        except BoltsealError as error:  # such as a full disk: the login is wrong all the same
            _log.warning("a failed login was not recorded", address=address, reason=error.message)

    def _code(self, cookie: str, row: PageSessionRow, *, may_create: bool = False) -> str:
        parts = [_PURPOSE, cookie, row.owner, row.login, row.address, str(row.began_us), str(row.ends_us)]
        return self._key.token_code(parts, may_create=may_create)


def may_create_key(tx: UnitOfWork) -> bool:
    """Return whether the key of the users may be created: with a new one neither users nor tokens that exist could log in."""
    return not (account_table.all_accounts(tx) or api_token_table.counts(tx, "")[1] or person_table.next_time_us(tx)[1])


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
