"""Decides what a caller may do, by grants, users and the caller's token. No HTTP. `server.auth.callers` authenticates callers.

A caller's rights on a repository are those that the grants give now; a bearer token limits them to its scopes, and an API token to
its scope. A bearer token that was requested with an API token is limited by both. Without users and
without `[auth]` in the configuration, every caller is anonymous and has all rights but admin: this is the registry of
one machine, and guarantee 12 keeps it on loopback. Behind a proxy the first user ends this for ever (`user_directory`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from boltseal.errors import Denied
from boltseal.oci.reference import Repository
from boltseal.policy.globs import Glob
from boltseal.policy.grants import EVERY_ACTION, NOTHING, Action, Grants
from boltseal.policy.pipeline_rules import TagLimits
from boltseal.policy.token_scope import DEFAULT_TERMS, TokenTerms
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.api_tokens import ApiTokens
from boltseal.server.auth.caller import Caller, EitherName, LoginNeeded
from boltseal.server.auth.callers import Callers
from boltseal.server.auth.logins import Logins
from boltseal.server.auth.pipeline_logins import PipelineLogins
from boltseal.server.auth.tokens import CATALOG_SCOPE, IssuedToken, Tokens
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.storage.users import Users

MAX_SCOPES: Final = 100
_OPEN: Final = EVERY_ACTION - {Action.ADMIN}


class Access:
    """Decides about the rights of callers, which `callers` authenticates. A reload replaces it.

    `configured`: callers must log in even without users. `stays_required`: callers must log in once there was a user, and not
    only while there is one. The other arguments are those of `Callers`.
    """

    def __init__(
        self,
        grants: Grants,
        logins: Logins,
        tokens: Tokens,
        *,
        configured: bool,
        stays_required: bool = False,
        api_tokens: ApiTokens | None = None,
        token_terms: TokenTerms = DEFAULT_TERMS,
        pipelines: PipelineLogins | None = None,
        people_of: str = "",
    ) -> None:
        self.grants = grants
        self.callers = Callers(
            logins,
            tokens,
            anonymous_pull=bool(grants.anonymous_pull),
            api_tokens=api_tokens,
            token_terms=token_terms,
            pipelines=pipelines,
            people_of=people_of,
        )
        self._users = logins.directory
        self._configured = configured
        self._stays_required = stays_required

    @property
    def stale(self) -> bool:
        """Whether `refresh` must be called before anything else is asked."""
        return self._users.stale

    async def refresh(self) -> None:
        """Read the users again if they have changed. Raises: UsersInvalid, Unavailable."""
        await self.callers.refresh()

    def users(self) -> Users:
        """Return the users now: the same object while they are unchanged. UsersInvalid: they cannot be parsed."""
        return self._users.current()

    @property
    def accounts(self) -> AccountRows | None:
        """The users of the database, None: this registry has only those of a file."""
        return self._users.accounts

    def in_file(self, user: str) -> bool:
        """Return whether a user is one of the users' file. Raises: UsersInvalid."""
        return self._users.in_file(user)

    def required(self, users: Users | None = None) -> bool:
        """Return whether callers are authenticated at all. `users`: the users now, where the caller has just read them.

        Raises: Unavailable: that depends on users who are not known now.
        """
        if self._configured:
            return True
        if self._users.unknown is not None:
            raise self._users.unknown
        return bool((users or self.users()).hashes) or (self._stays_required and self._users.existed)

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
        if self.callers.was_removed(caller, users):
            return lambda _: False
        globs: tuple[Glob, ...] = self.grants.pulled(caller.user, self._groups(caller.user))
        if caller.api_token is not None:
            return lambda name: any(glob.matches(name) for glob in globs) and caller.allows(Action.PULL, name)
        if caller.pipeline is not None:
            globs = self.grants.anonymous_pull + caller.pipeline.pulled()
        return lambda repository: any(glob.matches(repository) for glob in globs)

    def _granted(self, caller: Caller, repository: str) -> frozenset[Action]:
        """Return what the grants give the caller in a repository now, without the limits of a bearer token."""
        users = self.users()
        if not self.required(users):
            return _OPEN
        return NOTHING if self.callers.was_removed(caller, users) else self._given(caller, repository)

    def _given(self, caller: Caller, repository: str) -> frozenset[Action]:
        """Return what the configuration gives a caller who was not removed: grants to users, within the scope of an API token; rules to pipelines."""
        if caller.pipeline is None:
            granted = self.grants.allowed(caller.user, repository, self._groups(caller.user))
            return granted if caller.api_token is None else granted & caller.api_token.scope.allowed(repository)
        return self.grants.allowed(None, repository) | caller.pipeline.rights(repository).actions

    def tag_limits(self, caller: Caller, repository: str) -> TagLimits | None:
        """Return the tags that the caller may push in a repository, None for every tag. Users have no such limits."""
        return None if caller.pipeline is None else caller.pipeline.rights(repository).limits

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
            return caller.acting(admin=Action.ADMIN in rights)
        self._refuse_removed_user(caller)
        granted = action in self._given(caller, repository)
        shown = repository if either is None else either.requested
        if caller.user is None or granted:
            # An anonymous caller, or a token without this scope: another login or token can help.
            raise LoginNeeded(
                f"{action} in {shown} needs a login with that right",
                _scope(shown, action, source if either is None else either.at_root),
                insufficient=granted,
            )
        if not caller.allows(action, repository):
            raise Denied(
                f"the API token {caller.actor.token} of {caller.user} does not allow to {action} in {shown}; use a token "
                "whose scope does"
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

    def check_known_lister(self, caller: Caller) -> Actor:
        """Return the actor for what runs where: as `check_catalog`, and a client without a login has nothing of it. Raises: LoginNeeded."""
        if self.required() and caller.user is None:
            raise LoginNeeded("what hosts run needs a login", CATALOG_SCOPE)
        return self.check_catalog(caller)

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
            if caller.pipeline is not None or not self.grants.reads_ledger(caller.user, self._groups(caller.user)):
                raise Denied(
                    f"{caller.user} may not read the ledger's entries; ask the operator for the grant `ledger`"
                )
            _check_scope(caller, Action.LEDGER)
        return caller.actor

    def check_report(self, caller: Caller) -> Actor:
        """Return the actor for a report of a host. Without users any caller is one.

        Raises:
            LoginNeeded: the caller is anonymous or uses a bearer token.
            Denied: the user lacks the right `report`.
        """
        if self.required():
            self._refuse_removed_user(caller)
            if caller.user is None or caller.scopes is not None:
                raise LoginNeeded(
                    "a report needs a login with the right `report`, by user and password or an API token"
                )
            if caller.pipeline is not None or not self.grants.reports(caller.user, self._groups(caller.user)):
                raise Denied(f"{caller.user} may not report for hosts; ask the operator for the grant `report`")
            _check_scope(caller, Action.REPORT)
        return caller.actor

    def is_operator(self, caller: Caller) -> bool:
        """Return whether the caller may do what `check_operator` allows."""
        try:
            self.check_operator(caller)
        except (LoginNeeded, Denied):
            return False
        return True

    def check_user(self, caller: Caller) -> Actor:
        """Return the actor for what each user has for itself. Without users there is none.

        Raises:
            LoginNeeded: the caller is anonymous or uses a bearer token.
            Denied: it is a pipeline.
        """
        self._refuse_removed_user(caller)
        if caller.user is None or caller.scopes is not None:
            raise LoginNeeded("this needs a login, by user and password or an API token")
        if caller.pipeline is not None:
            raise Denied(
                "a pipeline has nothing of its own here; expected a login by user and password or an API token"
            )
        return caller.actor

    def check_operator(self, caller: Caller) -> Actor:
        """Return the actor for what concerns all repositories, such as users and grants. Without users there is no operator.

        Raises:
            LoginNeeded: the caller is anonymous or uses a token.
            Denied: the user lacks the right `admin` in every repository.
        """
        self._refuse_removed_user(caller)
        if caller.user is None or caller.scopes is not None:
            raise LoginNeeded("this needs a login with the right `admin` in every repository, by user and password")
        if caller.pipeline is not None or not self.grants.administers_all(caller.user, self._groups(caller.user)):
            raise Denied(
                f'{caller.user} is not an operator of this registry; ask for a grant of `admin` with repository = "**"'
            )
        _check_scope(caller, Action.ADMIN)
        return caller.acting(admin=True)

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
        if self.callers.was_removed(caller, self.users()):
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
        return self.callers.issue_token(caller, scopes, catalog=catalog and self._may_have_catalog(caller))

    def _groups(self, user: str | None) -> frozenset[str] | None:
        """Return the groups of a person of the identity provider; None for all others."""
        person = None if user is None else self.users().people.get(user)
        return None if person is None else person.groups


def _check_scope(caller: Caller, action: Action) -> None:
    """Check an action in every repository, which the grants allow. Raises: Denied: the scope of an API token does not."""
    if not caller.allows_everywhere(action):
        raise Denied(
            f"the API token {caller.actor.token} of {caller.user} does not allow `{action}` in all repositories; use a token "
            'with this action and the repository "**"'
        )


def _scope(repository: str, action: Action, also: str | None = None) -> str:
    """Return the scopes that an action needs, as the Docker token specification writes them. `also`: to be pulled from too."""
    actions = {Action.PULL: "pull", Action.PUSH: "pull,push"}.get(action, f"pull,{action}")
    more = "" if also is None or also == repository else f" {_scope(also, Action.PULL)}"
    return f"repository:{repository}:{actions}{more}"
