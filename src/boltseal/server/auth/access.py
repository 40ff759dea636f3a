"""Who asks, and what they may do: logins, tokens and grants put together. No HTTP.

A caller's rights in a repository are what the grants say now, and with a token also what that token was given for. With
nobody in the users' file and no `[auth]` in the configuration everybody is the same anonymous caller, who may do
everything but administrate: the registry of one machine, on loopback (promise 12 keeps it there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from boltseal.errors import Denied, Unauthenticated
from boltseal.policy.grants import EVERY_ACTION, NOTHING, Action, Grants
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.auth.tokens import CATALOG_SCOPE

if TYPE_CHECKING:
    from boltseal.oci.reference import Repository
    from boltseal.server.auth.logins import Logins
    from boltseal.server.auth.tokens import Tokens
    from boltseal.server.storage.users import Users

MAX_SCOPES: Final = 100
_OPEN: Final = EVERY_ACTION - {Action.ADMIN}


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was recognised. `user` None: without a login. `scopes` None: not limited by a token.

    `catalog`: whether that token is also for the catalog.
    """

    user: str | None = None
    scopes: Mapping[str, frozenset[Action]] | None = field(default=None)
    catalog: bool = False

    @property
    def actor(self) -> Actor:
        """Who that is to a ledger or a log, without any right."""
        return Actor(self.user or ANONYMOUS.name)


NOBODY: Final = Caller()


class LoginNeeded(Unauthenticated):
    """The caller needs a login, or another token.

    `scope`: what a token would have to be for, "" where none would help. `insufficient`: the caller's token lacks that
    scope, and the same caller can have one with it. Not where a login is missing: docker and podman then show their own
    words ("access to the resource is denied") in place of our message.
    """

    def __init__(self, message: str, scope: str = "", *, insufficient: bool = False) -> None:
        super().__init__(message)
        self.scope = scope
        self.insufficient = insufficient


class RightMissing(Denied):
    """The caller is known and has not got the right."""


class Access:
    """Recognises callers and tells their rights. Built anew when the configuration is read again."""

    def __init__(self, grants: Grants, logins: Logins, tokens: Tokens, *, configured: bool) -> None:
        self.grants = grants
        self._logins = logins
        self._tokens = tokens
        self._configured = configured

    def users(self) -> Users:
        """The users now, as one object while nothing changes. UsersInvalid."""
        return self._logins.users()

    def required(self, users: Users | None = None) -> bool:
        """Whether callers are told apart at all; `users`: where they were just looked up. UsersInvalid."""
        return self._configured or bool((users or self.users()).hashes)

    async def by_password(self, user: str, password: str, address: str) -> Caller:
        """The caller with this login. LoginWrong, LoginsTooMany, UsersInvalid."""
        await self._logins.verify(user, password, address)
        return Caller(user)

    def by_token(self, text: str) -> tuple[Caller, int]:
        """The caller whom a token names, and when it ends (seconds since the epoch). TokenInvalid, KeysUnreadable."""
        claims = self._tokens.check(text)
        return Caller(claims.user, claims.scopes, claims.catalog), claims.ends_s

    def allowed(self, caller: Caller, repository: str) -> frozenset[Action]:
        """What the caller may do in a repository now. UsersInvalid."""
        rights = self._granted(caller, repository)
        return rights if caller.scopes is None else rights & caller.scopes.get(repository, NOTHING)

    def may_list(self, caller: Caller, repository: str) -> bool:
        """Whether the catalog names a repository to the caller: one that they may pull, with a token for it or without.

        `check_catalog` comes first: it admits no token that is not for the catalog. UsersInvalid.
        """
        return Action.PULL in self._granted(caller, repository)

    def _granted(self, caller: Caller, repository: str) -> frozenset[Action]:
        """What the grants give the caller in a repository now, whatever a token was asked for."""
        users = self.users()
        if not self.required(users):
            return _OPEN
        if caller.user is not None and caller.user not in users.hashes:
            return NOTHING
        return self.grants.allowed(caller.user, repository)

    def check(self, caller: Caller, repository: Repository, action: Action) -> Actor:
        """Who acts, if the caller may. LoginNeeded, RightMissing, UsersInvalid."""
        rights = self.allowed(caller, repository)
        if action in rights:
            return Actor(caller.user or ANONYMOUS.name, admin=Action.ADMIN in rights)
        self._refuse_if_gone(caller)
        granted = action in self.grants.allowed(caller.user, repository)
        if caller.user is None or granted:
            # Without a login, or with a token that was not asked for this: both are mended by another login or token.
            raise LoginNeeded(
                f"{action} in {repository} needs a login that may do that",
                _scope(repository, action),
                insufficient=granted,
            )
        raise RightMissing(
            f"{caller.user} may not {action} in {repository}; ask whoever runs this registry for a grant"
        )

    def check_any(self, caller: Caller) -> Actor:
        """Who acts, for what names no repository: anybody known, or who may pull something."""
        if self.required():
            self._refuse_if_gone(caller)
            if caller.user is None and not self.grants.anonymous_pull:
                raise LoginNeeded("this registry needs a login")
        return caller.actor

    def check_catalog(self, caller: Caller) -> Actor:
        """Who acts, for the catalog: as `check_any`, and with no token that is not for it. LoginNeeded, UsersInvalid."""
        if self.required():
            self._refuse_if_gone(caller)
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
        """Whether the list of repositories is for this caller: every user, and anonymous ones who may pull something."""
        return not self.required() or caller.user is not None or bool(self.grants.anonymous_pull)

    def check_entries(self, caller: Caller) -> Actor:
        """Who acts, for the ledger's entries of whatever repository. LoginNeeded, RightMissing, UsersInvalid."""
        if self.required():
            self._refuse_if_gone(caller)
            if caller.user is None or caller.scopes is not None:
                raise LoginNeeded("the ledger's entries need a login with the right `ledger`, by user and password")
            if not self.grants.reads_ledger(caller.user):
                raise RightMissing(
                    f"{caller.user} may not read the ledger's entries; ask whoever runs this registry for the grant `ledger`"
                )
        return Actor(caller.user or ANONYMOUS.name)

    def check_entry(self, caller: Caller, index: int, repository: str) -> Actor:
        """Who acts, for an entry that was asked for by its number: who may not see it is not told what it is about."""
        if Action.PULL in self.allowed(caller, repository):
            return caller.actor
        self._refuse_if_gone(caller)
        about = f"entry {index} is about a repository"
        if caller.user is None or caller.scopes is not None:
            raise LoginNeeded(f"{about} that needs a login, by user and password, which may pull there")
        raise RightMissing(f"{about} that {caller.user} may not pull from; ask whoever runs this registry for a grant")

    def _refuse_if_gone(self, caller: Caller) -> None:
        if caller.user is not None and caller.user not in self.users().hashes:
            raise LoginNeeded("there is no such login any more")

    def give_token(
        self, caller: Caller, asked: Iterable[tuple[str, frozenset[Action]]], *, catalog: bool = False
    ) -> str:
        """A token for what was asked, cut to what the caller may do now. `catalog`: whether it was asked for, too."""
        scopes: dict[str, frozenset[Action]] = {}
        for repository, actions in list(asked)[:MAX_SCOPES]:
            granted = self.allowed(caller, repository) & actions
            if granted:
                scopes[repository] = scopes.get(repository, NOTHING) | granted
        catalog = catalog and self._may_have_catalog(caller) and (caller.scopes is None or caller.catalog)
        return self._tokens.give(caller.user, scopes, catalog=catalog)

    @property
    def service(self) -> str:
        """The audience of our tokens."""
        return self._tokens.service


def _scope(repository: str, action: Action) -> str:
    """What a token has to be asked for to do this, as the Docker token specification writes it."""
    actions = {Action.PULL: "pull", Action.PUSH: "pull,push"}.get(action, f"pull,{action}")
    return f"repository:{repository}:{actions}"
