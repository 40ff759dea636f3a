"""Authentication and authorization of callers: combines logins, tokens and grants. No HTTP.

A caller's rights on a repository are those that the grants give now; a token limits them to its scopes. Without users and
without `[auth]` in the configuration, every caller is anonymous and has all rights but admin: this is the registry of
one machine, and guarantee 12 keeps it on loopback. Behind a proxy the first user ends this until the next start (`seen_users`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from boltseal.errors import Denied, Unauthenticated
from boltseal.oci.reference import Repository
from boltseal.policy.grants import EVERY_ACTION, NOTHING, Action, Grants
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.auth.logins import Logins
from boltseal.server.auth.seen_users import SeenUsers
from boltseal.server.auth.tokens import CATALOG_SCOPE, IssuedToken, Tokens
from boltseal.server.storage.users import Users

MAX_SCOPES: Final = 100
_OPEN: Final = EVERY_ACTION - {Action.ADMIN}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated or anonymous caller. `user` None: anonymous. `scopes` None: not limited by a token.

    `catalog`: whether the token is also valid for the catalog.
    """

    user: str | None = None
    scopes: Mapping[str, frozenset[Action]] | None = field(default=None)
    catalog: bool = False

    @property
    def actor(self) -> Actor:
        """The caller as ledger and log name it, without any right."""
        return Actor(self.user or ANONYMOUS.name)


ANONYMOUS_CALLER: Final = Caller()


class TokenCaller(NamedTuple):
    """The caller that a token names, and for how many seconds the token is valid still."""

    caller: Caller
    left_s: float


class EitherName(NamedTuple):
    """The two names between which the stored repositories decide: the requested one, and its name at the root mirror.

    A refusal has both, so that it does not say whether the first exists.
    """

    requested: Repository
    at_root: Repository


class LoginNeeded(Unauthenticated):
    """The caller needs a login, or another token.

    `scope`: the scope that a token would need, "" where no token would help. `insufficient`: the caller's token lacks that
    scope, and the same caller can get it. It is not set where a login is missing: docker and podman would then show their
    own message ("access to the resource is denied") instead of ours.
    """

    def __init__(self, message: str, scope: str = "", *, insufficient: bool = False) -> None:
        super().__init__(message)
        self.scope = scope
        self.insufficient = insufficient


class Access:
    """Authenticates callers and decides about their rights. A reload replaces it.

    `configured`: callers must log in even without users. `seen`: callers must log in once there was a user; None: only while
    there is one.
    """

    def __init__(
        self, grants: Grants, logins: Logins, tokens: Tokens, *, configured: bool, seen: SeenUsers | None = None
    ) -> None:
        self.grants = grants
        self._logins = logins
        self._users = logins.directory
        self._tokens = tokens
        self._configured = configured
        self._seen = seen

    @property
    def stale(self) -> bool:
        """Whether `refresh` must be called before anything else is asked."""
        return self._users.stale

    async def refresh(self) -> None:
        """Read the users again if they have changed. Raises: UsersInvalid, Unavailable."""
        await self._users.refresh()

    def users(self) -> Users:
        """Return the users now: the same object while they are unchanged. UsersInvalid: they cannot be parsed."""
        return self._users.current()

    def required(self, users: Users | None = None) -> bool:
        """Return whether callers are authenticated at all. `users`: the users now, where the caller has just read them."""
        if self._configured:
            return True
        if not (users or self.users()).hashes:
            return self._seen is not None and self._seen.any()
        if self._seen is not None:
            self._seen.note()
        return True

    async def by_password(self, user: str, password: str, address: str) -> Caller:
        """Return the caller with this user name and password.

        Raises:
            LoginWrong: no such user, or another password.
            LoginsTooMany: the address failed too often.
        """
        await self._logins.verify(user, password, address)
        return Caller(user)

    def by_token(self, text: str) -> TokenCaller:
        """Return the caller that a token names, and for how many seconds it is valid still.

        Raises:
            Unauthenticated: this registry did not issue it, or it is no longer valid.
        """
        claims = self._tokens.check(text)
        if claims.user in self.users().hashes and claims.login != self._login_of(claims.user):
            raise Unauthenticated("the token is of an earlier password; log in again")
        return TokenCaller(Caller(claims.user, claims.scopes, claims.catalog), self._tokens.left_s(claims.ends_s))

    def allowed(self, caller: Caller, repository: str) -> frozenset[Action]:
        """Return what the caller may do in a repository now."""
        rights = self._granted(caller, repository)
        return rights if caller.scopes is None else rights & caller.scopes.get(repository, NOTHING)

    def may_list(self, caller: Caller) -> Callable[[str], bool]:
        """Return which repositories the catalog may name to the caller: those that the grants let it pull now.

        Call `check_catalog` first, which refuses a token without the catalog scope. Other scopes do not matter here. The
        users are read once, as the catalog asks about every repository.
        """
        users = self.users()
        if not self.required(users):
            return lambda _: True
        if caller.user is not None and caller.user not in users.hashes:
            return lambda _: False
        globs = self.grants.pulled(caller.user)
        return lambda repository: any(glob.matches(repository) for glob in globs)

    def _granted(self, caller: Caller, repository: str) -> frozenset[Action]:
        """Return what the grants give the caller in a repository now, without the limits of a token."""
        users = self.users()
        if not self.required(users):
            return _OPEN
        if caller.user is not None and caller.user not in users.hashes:
            return NOTHING
        return self.grants.allowed(caller.user, repository)

    def check(
        self,
        caller: Caller,
        repository: Repository,
        action: Action,
        source: Repository | None = None,
        either: EitherName | None = None,
    ) -> Actor:
        """Return the actor if the caller may do the action.

        `source`: the repository from which the request mounts a blob. A token must have its pull too, if the grants give
        that to the caller. Without that grant the request is an upload, as if the blob did not exist. `either`: for refusals.

        Raises:
            LoginNeeded: a login or another token could have the right.
            Denied: the caller lacks the right.
        """
        rights = self.allowed(caller, repository)
        if action in rights:
            if source is not None and self._token_lacks(caller, source, Action.PULL):
                message = f"a mount from {source} needs a token with the right to pull there"
                raise LoginNeeded(message, _scope(repository, action, source), insufficient=True)
            return Actor(caller.user or ANONYMOUS.name, admin=Action.ADMIN in rights)
        self._refuse_removed_user(caller)
        granted = action in self.grants.allowed(caller.user, repository)
        shown = repository if either is None else either.requested
        if caller.user is None or granted:
            # An anonymous caller, or a token without this scope: another login or token can help.
            raise LoginNeeded(
                f"{action} in {shown} needs a login with that right",
                _scope(shown, action, source if either is None else either.at_root),
                insufficient=granted,
            )
        raise Denied(f"{caller.user} may not {action} in {shown}; ask the operator of this registry for a grant")

    def _token_lacks(self, caller: Caller, repository: Repository, action: Action) -> bool:
        """Return whether the grants give the caller an action now, and only the scopes of its token do not."""
        return action in self._granted(caller, repository) and action not in self.allowed(caller, repository)

    def check_any(self, caller: Caller) -> Actor:
        """Return the actor for a request without a repository: any user, and anonymous callers that may pull something."""
        if self.required():
            self._refuse_removed_user(caller)
            if caller.user is None and not self.grants.anonymous_pull:
                raise LoginNeeded("this registry needs a login")
        return caller.actor

    def check_catalog(self, caller: Caller) -> Actor:
        """Return the actor for the catalog: as `check_any`, and a token needs the catalog scope.

        Raises:
            LoginNeeded: a login or another token is needed.
        """
        if self.required():
            self._refuse_removed_user(caller)
            if not self._may_have_catalog(caller):
                raise LoginNeeded("the list of repositories needs a login", CATALOG_SCOPE)
            if caller.scopes is not None and not caller.catalog:
                raise LoginNeeded(
                    f"the list of repositories needs a token with the scope {CATALOG_SCOPE}",
                    CATALOG_SCOPE,
                    insufficient=True,
                )
        return caller.actor

    def _may_have_catalog(self, caller: Caller) -> bool:
        """Return whether the caller may list repositories: any user, and anonymous callers that may pull something."""
        return not self.required() or caller.user is not None or bool(self.grants.anonymous_pull)

    def check_entries(self, caller: Caller) -> Actor:
        """Return the actor for ledger entries of any repository.

        Raises:
            LoginNeeded: the caller is anonymous or uses a token.
            Denied: the user lacks the right `ledger`.
        """
        if self.required():
            self._refuse_removed_user(caller)
            if caller.user is None or caller.scopes is not None:
                raise LoginNeeded("the ledger's entries need a login with the right `ledger`, by user and password")
            if not self.grants.reads_ledger(caller.user):
                raise Denied(
                    f"{caller.user} may not read the ledger's entries; ask the operator for the grant `ledger`"
                )
        return Actor(caller.user or ANONYMOUS.name)

    def check_entry(self, caller: Caller, index: int, repository: str) -> Actor:
        """Return the actor for an entry requested by its index. A refusal does not name the entry's repository.

        Raises:
            LoginNeeded: a login could have the right.
            Denied: the user may not pull from the repository.
        """
        if Action.PULL in self.allowed(caller, repository):
            return caller.actor
        self._refuse_removed_user(caller)
        subject = f"the repository of entry {index}"
        if caller.user is None or caller.scopes is not None:
            raise LoginNeeded(f"{subject} needs a login, by user and password, with the right to pull")
        raise Denied(f"{caller.user} may not pull from {subject}; ask the operator of this registry for a grant")

    def _refuse_removed_user(self, caller: Caller) -> None:
        if caller.user is not None and caller.user not in self.users().hashes:
            raise LoginNeeded("the user of this login was removed")

    def issue_token(
        self, caller: Caller, requested: Iterable[tuple[str, frozenset[Action]]], *, catalog: bool = False
    ) -> IssuedToken:
        """Return a token for the requested actions by repository, limited to what the caller may do now.

        `catalog`: whether the catalog scope was requested too.
        """
        scopes: dict[str, frozenset[Action]] = {}
        for repository, actions in list(requested)[:MAX_SCOPES]:
            granted = self.allowed(caller, repository) & actions
            if granted:
                scopes[repository] = scopes.get(repository, NOTHING) | granted
        catalog = catalog and self._may_have_catalog(caller)
        return self._tokens.issue(caller.user, scopes, catalog=catalog, login=self._login_of(caller.user))

    def _login_of(self, user: str | None) -> str:
        """Return a text that differs for each password of each user and does not reveal it; "" for anonymous callers."""
        hashed = None if user is None else self.users().hashes.get(user)
        return "" if hashed is None else hashlib.blake2b(hashed, digest_size=12).hexdigest()

    @property
    def service(self) -> str:
        """The audience of this registry's tokens."""
        return self._tokens.service


def _scope(repository: str, action: Action, also: str | None = None) -> str:
    """Return the scopes that an action needs, as the Docker token specification writes them. `also`: to be pulled from too."""
    actions = {Action.PULL: "pull", Action.PUSH: "pull,push"}.get(action, f"pull,{action}")
    more = "" if also is None or also == repository else f" {_scope(also, Action.PULL)}"
    return f"repository:{repository}:{actions}{more}"
