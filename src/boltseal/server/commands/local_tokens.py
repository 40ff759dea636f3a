"""The API tokens of a data folder, beside a running server or without one. The actor is the account that runs the command."""

from __future__ import annotations

from functools import partial
from typing import Final

from boltseal.commands.api_tokens import NewToken, SessionInfo, TokenInfo, WantedToken
from boltseal.errors import Invalid
from boltseal.policy.token_scope import parse_scope
from boltseal.server.auth.api_token_fields import OwnerKind, token_fields
from boltseal.server.auth.api_tokens import (
    CreatedToken,
    TokenRequest,
    add_token,
    required_kind,
    revoke_tokens,
    token_of,
    tokens_of,
)
from boltseal.server.auth.pipeline_sessions import revoke_session, session_fields, session_of
from boltseal.server.commands.data_folder import local_admin
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import account_table, api_token_table, person_table, pipeline_table
from boltseal.server.storage.metadata.migrate import SESSIONS_FORMAT, TOKENS_FORMAT
from boltseal.server.storage.metadata.protocol import ApiTokenRow, Snapshot, UnitOfWork
from boltseal.server.storage.metadata_factory import check_metadata
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import UserFile, Users
from boltseal.server.store_factory import open_metadata

MAX_SESSIONS: Final = 100_000
"""Sessions that one list on a data folder has."""


class LocalTokens:
    """`TokenChanges` on one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._terms = settings.auth.token_terms
        check_metadata(settings.server.data, settings.storage, oldest=TOKENS_FORMAT)

    def create(self, wanted: WantedToken) -> NewToken:
        """Create a token."""
        if not wanted.owner:
            raise Invalid("the owner is missing; name a user or a service account with --owner")
        scope = parse_scope(wanted.repositories, wanted.actions)
        asked = TokenRequest(wanted.owner, scope, wanted.life, wanted.description)
        key = UserKey(self._settings.keys)

        def job(tx: UnitOfWork) -> CreatedToken:
            return add_token(tx, key, asked, self._kind(tx, wanted.owner), self._terms, local_admin())

        with open_metadata(self._settings) as database:
            made = database.write_and_wait(job)
            return NewToken(made.text, self._info(made.row, made.login_us, database.now_us()))

    def tokens(self, user: str, *, every: bool) -> list[TokenInfo]:
        """Return the tokens of a user; without one, of all."""

        def query(snapshot: Snapshot) -> list[ApiTokenRow]:
            return tokens_of(user, snapshot) if user and not every else api_token_table.every(snapshot)

        with open_metadata(self._settings) as database:
            rows = database.read_and_wait(query)
            return self._infos(rows, database.read_and_wait(partial(_logins, rows)), database.now_us())

    def revoke(self, token: str, user: str, *, dry_run: bool) -> list[TokenInfo]:
        """Revoke a token, or all of a user."""
        find = partial(token_of, token, None) if token else partial(tokens_of, user)

        def job(tx: UnitOfWork) -> list[ApiTokenRow]:
            rows = find(tx)
            revoke_tokens(tx, rows, local_admin())
            return rows

        with open_metadata(self._settings) as database:
            rows = database.read_and_wait(find) if dry_run else database.write_and_wait(job)
            return self._infos(rows, database.read_and_wait(partial(_logins, rows)), database.now_us())

    def sessions(self) -> list[SessionInfo]:
        """Return the sessions of pipelines."""
        self._check_sessions()
        with open_metadata(self._settings) as database:
            now_us = database.now_us()
            rows = database.read_and_wait(lambda tx: pipeline_table.after(tx, "", MAX_SESSIONS, now_us=now_us))
            return [SessionInfo(**session_fields(row, self._settings.issuers)) for row in rows]

    def revoke_session(self, session: str, *, dry_run: bool) -> SessionInfo:
        """Revoke the session of a pipeline."""
        issuers = self._settings.issuers
        self._check_sessions()
        with open_metadata(self._settings) as database:
            if dry_run:
                row = database.read_and_wait(lambda tx: session_of(tx, session))
            else:
                row = database.write_and_wait(lambda tx: revoke_session(tx, session, issuers, local_admin()))
            return SessionInfo(**session_fields(row, issuers))

    def _check_sessions(self) -> None:
        """Raise Unavailable if the data folder is older than sessions of pipelines."""
        check_metadata(self._settings.server.data, self._settings.storage, oldest=SESSIONS_FORMAT)

    def _kind(self, snapshot: Snapshot, owner: str) -> OwnerKind:
        """Return what kind of user an owner is. Raises: NotFound, UsersInvalid."""
        services = dict.fromkeys(api_token_table.service_accounts(snapshot), b"")
        persons = {row.name: b"-" for row in account_table.all_accounts(snapshot)}
        if person_table.is_there(snapshot):
            persons |= {row.name: b"-" for row in person_table.every(snapshot)}
        in_file = UserFile(self._settings.htpasswd).current().hashes
        return required_kind(Users({**services, **persons, **in_file}, (0, 0, 0)), owner)

    def _infos(self, rows: list[ApiTokenRow], logins: dict[str, int], now_us: int) -> list[TokenInfo]:
        return [self._info(row, logins.get(row.owner), now_us) for row in rows]

    def _info(self, row: ApiTokenRow, login_us: int | None, now_us: int) -> TokenInfo:
        return TokenInfo(**token_fields(row, login_us, self._terms, now_us))


def _logins(rows: list[ApiTokenRow], snapshot: Snapshot) -> dict[str, int]:
    return api_token_table.logins(snapshot, {row.owner for row in rows})
