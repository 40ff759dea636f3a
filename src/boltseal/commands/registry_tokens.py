"""The API tokens of a registry over its admin API, by the user who is logged in there."""

from __future__ import annotations

import msgspec

from boltseal.client.admin_client import AdminClient
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.api_tokens import NewToken, SessionInfo, TokenInfo, WantedToken
from boltseal.commands.registry_access import RegistryOptions

_NAME = "tokens"
_SESSIONS = "sessions"


class _Created(msgspec.Struct):
    text: str
    token: TokenInfo


class _Revoked(msgspec.Struct):
    items: list[TokenInfo]


class _RevokedSession(msgspec.Struct):
    session: SessionInfo


class RegistryTokens:
    """`TokenChanges` of one registry."""

    def __init__(self, options: RegistryOptions, registry: str) -> None:
        self._registry = registry
        self._api = AdminConnection(options, self._registry)

    def create(self, wanted: WantedToken) -> NewToken:
        """Create a token."""
        fields = {
            "owner": wanted.owner,
            "repositories": list(wanted.repositories),
            "actions": list(wanted.actions),
            "life": "" if wanted.life is None else str(wanted.life),
            "description": wanted.description,
        }
        advice = f"{self._list} shows it; revoke a token that was created, and create another"
        what = "creation of an API token"
        made = self._api.ask(lambda client: client.change(_NAME, what, fields, _Created, advice=advice))
        return NewToken(made.text, made.token)

    def tokens(self, user: str, *, every: bool) -> list[TokenInfo]:
        """Return the tokens of a user, or of all."""
        query = ({"user": user} if user else {}) | ({"all": "true"} if every else {})

        async def read(client: AdminClient) -> list[TokenInfo]:
            return [item async for item in client.items(_NAME, "API tokens", TokenInfo, query)]

        return self._api.ask(read)

    def revoke(self, token: str, user: str, *, dry_run: bool) -> list[TokenInfo]:
        """Revoke a token, or all of a user."""
        query = ({"id": token} if token else {"user": user}) | ({"dry_run": "true"} if dry_run else {})
        what = f"revocation of {token or f'the API tokens of {user}'}"
        advice = f"{self._list} shows it, and the command can be run again"
        return self._api.ask(lambda client: client.delete(_NAME, what, query, _Revoked, advice=advice)).items

    def sessions(self) -> list[SessionInfo]:
        """Return the sessions of pipelines."""

        async def read(client: AdminClient) -> list[SessionInfo]:
            return [item async for item in client.items(_SESSIONS, "sessions of pipelines", SessionInfo)]

        return self._api.ask(read)

    def revoke_session(self, session: str, *, dry_run: bool) -> SessionInfo:
        """Revoke the session of a pipeline."""
        query = {"id": session} | ({"dry_run": "true"} if dry_run else {})
        what = f"revocation of session {session[:12]}"
        advice = f"`boltseal admin session ls --server {self._registry}` shows it, and the command can be run again"
        return self._api.ask(
            lambda client: client.delete(_SESSIONS, what, query, _RevokedSession, advice=advice)
        ).session

    @property
    def _list(self) -> str:
        return f"`boltseal admin token ls --server {self._registry}`"
