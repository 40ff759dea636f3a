"""Authenticates callers by password, API token, bearer token, session of pages or ID token of a pipeline, and issues bearer tokens.

Who a caller is, and not what it may do: that is `server.auth.access`. A bearer token that was requested with an API token ends with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from boltseal.errors import Unauthenticated
from boltseal.policy.grants import Action
from boltseal.policy.token_scope import TokenTerms
from boltseal.server.auth.api_token_text import TokenRefused, looks_like_token
from boltseal.server.auth.api_tokens import AcceptedToken, ApiTokens, fingerprint
from boltseal.server.auth.caller import Caller, TokenCaller
from boltseal.server.auth.logins import Logins, LoginWrong
from boltseal.server.auth.page_sessions import PageSession
from boltseal.server.auth.people import login_of_person
from boltseal.server.auth.pipeline_logins import PIPELINE_USER, PipelineLogins, PipelineSession
from boltseal.server.auth.tokens import Claims, IssuedToken, Tokens
from boltseal.server.storage.users import Users


class Callers:
    """Authenticates callers. The users have to be read (`Access.refresh`) before a credential is checked.

    `api_tokens`, `pipelines` None: none is accepted. `people_of`: the identity provider of people, "" if none. `anonymous_pull`: some
    callers have rights that do not depend on users.
    """

    def __init__(
        self,
        logins: Logins,
        tokens: Tokens,
        *,
        anonymous_pull: bool,
        api_tokens: ApiTokens | None,
        token_terms: TokenTerms,
        pipelines: PipelineLogins | None,
        people_of: str,
    ) -> None:
        self.api_tokens = api_tokens
        self.token_terms = token_terms
        self._logins = logins
        self._users = logins.directory
        self._tokens = tokens
        self._anonymous_pull = anonymous_pull
        self._pipelines = pipelines or PipelineLogins()
        self._people_of = people_of

    async def refresh(self) -> None:
        """Read the users again if they have changed. Raises: UsersInvalid, Unavailable."""
        await self._users.refresh(alone=self._anonymous_pull)

    async def by_password(self, user: str, password: str, address: str) -> tuple[Caller, float | None]:
        """Return the caller with this user name and password, or API token, and for how many seconds a token is valid still.

        Raises:
            LoginWrong: no such user, or another password. TokenRefused: another API token.
            LoginsTooMany: the address failed too often.
        """
        if looks_like_token(password):
            return await self._by_api_token(user, password)
        self._check_known(user)
        held = await self._logins.verify(user, password, address)
        if self.api_tokens is not None and self._users.unknown is None:
            await self.api_tokens.note_login(user, held)
        # What begins now is bound to the password of this moment, which may be another one than was compared.
        if self._users.stale:
            await self.refresh()
        self._check_known(user)
        if self._users.current().hashes.get(user) != held:
            raise LoginWrong("wrong user or password: the password was changed at this moment; log in again")
        return Caller(user), None

    async def hash_password(self, password: str) -> bytes:
        """Return the hash of a new password. Raises: ValueError: it is empty or too long; LoginsTooMany."""
        return await self._logins.hash_password(password)

    async def check_address(self, address: str) -> None:
        """Check that an address need not wait after failed logins. Raises: LoginsTooMany, Unavailable."""
        await self._logins.check_address(address)

    async def note_failed_login(self, address: str) -> None:
        """Count a login that failed elsewhere than at the password, together with those."""
        await self._logins.note_failed(address)

    async def by_token(self, text: str) -> TokenCaller:
        """Return the caller that a bearer token or an API token names, and for how many seconds it is valid still.

        Raises:
            Unauthenticated: this registry did not issue it, or it is no longer valid.
            Unavailable: it is of a pipeline, whose session cannot be read now.
        """
        if looks_like_token(text):
            return await self._by_api_token(None, text)
        claims = self._tokens.check(text)
        if claims.api_token:
            tokens = self._known_tokens()
            accepted = await tokens.accept_again(
                claims.api_token, claims.login, self._users.current(), self.token_terms
            )
            if accepted.owner != claims.user:
                raise Unauthenticated("the token has invalid claims; log in again")
            return self._token_caller(accepted, claims)
        if claims.session:
            session = await self._pipelines.by_session(claims.session, claims.ends_s)
            caller = Caller(session.name, claims.scopes, claims.catalog, pipeline=session)
            return TokenCaller(caller, self._tokens.left_s(claims.ends_s))
        self._check_known(claims.user)
        if claims.user in self._users.current().hashes and claims.login != self.login_of(claims.user):
            raise Unauthenticated("the token is of an earlier password; log in again")
        return TokenCaller(Caller(claims.user, claims.scopes, claims.catalog), self._tokens.left_s(claims.ends_s))

    def by_session(self, session: PageSession) -> Caller | None:
        """Return the caller of a session of pages; None if its owner was removed, or has another password now. Raises: UsersInvalid."""
        users = self._users.current()
        caller = Caller(session.owner)
        if self.was_removed(caller, users) or not hmac.compare_digest(self.login_of(session.owner), session.login):
            return None
        return caller

    async def by_id_token(self, text: str) -> TokenCaller:
        """Return the pipeline whose ID token this is. Raises: as `PipelineLogins.by_id_token`."""
        return self._pipeline_caller(await self._pipelines.by_id_token(text))

    async def by_refresh_token(self, text: str) -> Caller:
        """Return the pipeline that a refresh token was issued to. Raises: Unauthenticated, Unavailable."""
        return self._pipeline_caller(await self._pipelines.by_refresh_token(text)).caller

    @property
    def pipelines(self) -> PipelineLogins:
        """The logins of pipelines."""
        return self._pipelines

    @property
    def accepts_pipelines(self) -> bool:
        """Whether pipelines may log in. Without them there are no refresh tokens."""
        return self._pipelines.accepted

    def is_pipeline(self, user: str) -> bool:
        """Return whether the password of a login with this user name is an ID token."""
        return user == PIPELINE_USER and self._pipelines.accepted

    def may_remember(self, caller: Caller) -> bool:
        """Return whether a caller whose login was checked before need not be checked again, while the users are the same."""
        if caller.pipeline is not None:
            return self._pipelines.may_remember(caller.pipeline)
        return caller.api_token is None or self._known_tokens().now_us() < caller.api_token.check_us

    def was_removed(self, caller: Caller, users: Users) -> bool:
        """Return whether there is no user of the caller's name now. Pipelines are no users; their session was read.

        People of an identity provider that the configuration does not have any more are no users.
        """
        if caller.user is None or caller.pipeline is not None:
            return False
        person = users.people.get(caller.user)
        return caller.user not in users.hashes or (person is not None and person.issuer != self._people_of)

    def issue_token(self, caller: Caller, scopes: Mapping[str, frozenset[Action]], *, catalog: bool) -> IssuedToken:
        """Return a bearer token with these scopes, which the caller has. It ends with the login, the session or the API token."""
        if caller.pipeline is not None:
            session = caller.pipeline
            return self._tokens.issue(caller.user, scopes, catalog=catalog, session=session.id, ends_s=session.ends_s)
        held = None if caller.api_token is None else self._users.current().tokens.get(caller.api_token.id)
        if held is not None:
            login = fingerprint(held)
            return self._tokens.issue(caller.user, scopes, catalog=catalog, login=login, api_token=held.id)
        self._refuse_revoked(caller)
        return self._tokens.issue(caller.user, scopes, catalog=catalog, login=self.login_of(caller.user))

    async def issue_refresh_token(self, caller: Caller) -> str | None:
        """Return a refresh token for a pipeline; None for all others, who keep their password. Raises: Unavailable, Full."""
        return None if caller.pipeline is None else await self._pipelines.issue_refresh_token(caller.pipeline)

    def login_of(self, user: str | None) -> str:
        """Return a text that differs for each password of each user and does not reveal it; "" for anonymous callers.

        For people of an identity provider it differs for each subject.
        """
        users = self._users.current()
        person = None if user is None else users.people.get(user)
        if person is not None:
            return login_of_person(person.issuer, person.subject)
        hashed = None if user is None else users.hashes.get(user)
        return "" if hashed is None else hashlib.blake2b(hashed, digest_size=12).hexdigest()

    @property
    def service(self) -> str:
        """The audience of this registry's tokens."""
        return self._tokens.service

    def _pipeline_caller(self, session: PipelineSession) -> TokenCaller:
        return TokenCaller(Caller(session.name, pipeline=session), self._tokens.left_s(session.ends_s))

    async def _by_api_token(self, user: str | None, text: str) -> TokenCaller:
        return self._token_caller(
            await self._known_tokens().accept(user, text, self._users.current(), self.token_terms)
        )

    def _known_tokens(self) -> ApiTokens:
        """Return the API tokens. Raises: Unavailable: they are not known now. TokenRefused: this registry has none."""
        if self._users.unknown is not None:
            raise self._users.unknown
        if self.api_tokens is None:
            raise TokenRefused("API tokens are not accepted here")
        return self.api_tokens

    def _token_caller(self, accepted: AcceptedToken, claims: Claims | None = None) -> TokenCaller:
        """Return the caller with an accepted API token. `claims`: of the bearer token that was requested with it."""
        if claims is None:
            return TokenCaller(Caller(accepted.owner, api_token=accepted.token), accepted.left_s)
        caller = Caller(accepted.owner, claims.scopes, claims.catalog, accepted.token)
        return TokenCaller(caller, min(accepted.left_s, self._tokens.left_s(claims.ends_s)))

    def _check_known(self, user: str | None) -> None:
        """Raise Unavailable if a user, None for anonymous callers, may be one of those that are not known now."""
        if user is not None and self._users.unknown is not None and user not in self._users.current().hashes:
            raise self._users.unknown

    def _refuse_revoked(self, caller: Caller) -> None:
        """Raise TokenRefused if the caller's API token was revoked since it was checked."""
        if caller.api_token is not None and caller.api_token.id not in self._users.current().tokens:
            raise TokenRefused(f"the API token {caller.api_token.id} was revoked")
