"""API tokens, and sessions of pipelines: the values of the commands `admin token create`, `ls`, `revoke` and `admin session`.

`TokenChanges` has two implementations: on a data folder (`server.commands.local_tokens`) and over the admin API of a registry
(`commands.registry_tokens`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from boltseal.policy.durations import Duration


@dataclass(frozen=True, slots=True)
class WantedToken:
    """A token to create. `owner` "": the one who asks. `life` None: the server's default."""

    owner: str
    repositories: tuple[str, ...]
    actions: tuple[str, ...]
    life: Duration | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token, without its text. Times are ISO 8601 in UTC. `ends` None: it does not work now. `used` None: never."""

    id: str
    owner: str
    kind: str
    repositories: list[str]
    actions: list[str]
    description: str
    created: str
    created_by: str
    expires: str
    ends: str | None
    used: str | None
    warning: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session of a pipeline. `by`: as the ledger names it. `pipeline`: verified claims. Times are ISO 8601 in UTC; `revoked` None: not."""

    id: str
    by: str
    pipeline: dict[str, str]
    opened: str
    ends: str
    revoked: str | None


class NewToken(NamedTuple):
    """A new token and its text, which is not shown again."""

    text: str
    token: TokenInfo


class TokenChanges(Protocol):
    """The API tokens of one registry. Each change is recorded in its audit log.

    Raises of all: Invalid; NotFound: there is no such user or token; errors of the data folder, or of the connection. A creation
    whose answer was lost may have created a token whose text is lost: `ls` shows it.
    """

    def create(self, wanted: WantedToken) -> NewToken:
        """Create a token."""
        ...

    def tokens(self, user: str, *, every: bool) -> list[TokenInfo]:
        """Return the tokens of a user, "" for the one who asks, or of all users."""
        ...

    def revoke(self, token: str, user: str, *, dry_run: bool) -> list[TokenInfo]:
        """Revoke a token by its ID, or all of a user; return them. `dry_run`: only return them."""
        ...

    def sessions(self) -> list[SessionInfo]:
        """Return the sessions of pipelines that have not ended."""
        ...

    def revoke_session(self, session: str, *, dry_run: bool) -> SessionInfo:
        """Revoke the session of a pipeline, and return it. `dry_run`: only return it."""
        ...
