"""The caller of a request, authenticated or anonymous, and the refusal for lack of a login. No HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from boltseal.errors import Unauthenticated
from boltseal.oci.reference import Repository
from boltseal.policy.grants import Action
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.auth.api_tokens import HeldToken
from boltseal.server.auth.pipeline_logins import PipelineSession


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated or anonymous caller. `user` None: anonymous. `scopes` None: not limited by a bearer token.

    `catalog`: whether the bearer token is also valid for the catalog. `api_token` None: not limited by an API token. `pipeline`: its
    session, None for users.
    """

    user: str | None = None
    scopes: Mapping[str, frozenset[Action]] | None = field(default=None)
    catalog: bool = False
    api_token: HeldToken | None = None
    pipeline: PipelineSession | None = None

    @property
    def actor(self) -> Actor:
        """The caller as ledger and log name it, without any right."""
        return self.acting(admin=False)

    def acting(self, *, admin: bool) -> Actor:
        """Return the caller as ledger and log name it. `admin`: whether it may lift the protection of a seal."""
        token = "" if self.api_token is None else self.api_token.id
        extra = {} if self.pipeline is None else self.pipeline.ledger_extra
        return Actor(self.user or ANONYMOUS.name, admin, token, extra)

    def allows(self, action: Action, repository: str) -> bool:
        """Return whether the caller's API token allows an action; True without one."""
        return self.api_token is None or action in self.api_token.scope.allowed(repository)

    def allows_everywhere(self, action: Action) -> bool:
        """Return whether the caller's API token allows an action in every repository; True without one."""
        return self.api_token is None or self.api_token.scope.allows_everywhere(action)


ANONYMOUS_CALLER: Final = Caller()


class TokenCaller(NamedTuple):
    """The caller that a token names (or an ID token), and for how many seconds the token is valid still."""

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
