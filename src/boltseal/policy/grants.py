"""Authorization: which user may do what in which repository, by grants over repository globs. Pure.

A grant gives some users some actions on the repositories that its glob matches. Grants add up, none takes a right away,
and the default is deny. Without any grant in the configuration every user may pull and push everywhere, and no user may
delete, read the ledger's entries or administrate. Anonymous clients may at most pull, where `anonymous_pull` allows it.
Authentication happens elsewhere (`server.auth`). A right on one repository gives nothing on another (promise 13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.policy.globs import Glob, GlobInvalid, parse_repository_glob
from boltseal.policy.setting_keys import SettingKey

MAX_GRANTS: Final = 10_000
GRANT_KEYS: Final = {
    "users": SettingKey("", "Users of the grant; `*`: every user."),
    "repository": SettingKey("**", "Repositories of the grant."),
    "actions": SettingKey("", "`pull`, `push`, `delete`, `ledger`, `admin`; none includes another."),
}
EVERY_USER: Final = "*"


class GrantInvalid(Invalid):
    """An invalid grant. The server does not start."""


class Action(StrEnum):
    """An action that a grant allows. No action includes another."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    LEDGER = "ledger"
    ADMIN = "admin"


EVERY_ACTION: Final = frozenset(Action)
NOTHING: Final[frozenset[Action]] = frozenset()
_PULL: Final = frozenset({Action.PULL})


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant of actions to users (`*`: all with a login) on the repositories that the glob matches."""

    users: frozenset[str]
    repository: Glob
    actions: frozenset[Action]


_WITHOUT_GRANTS: Final = (
    Grant(frozenset({EVERY_USER}), parse_repository_glob("**"), frozenset({Action.PULL, Action.PUSH})),
)


@dataclass(frozen=True, slots=True)
class Grants:
    """Every grant in force. Made by `parse_grants`."""

    grants: tuple[Grant, ...] = _WITHOUT_GRANTS
    anonymous_pull: tuple[Glob, ...] = ()

    def allowed(self, user: str | None, repository: str) -> frozenset[Action]:
        """Return the actions that a user (None: an anonymous client) may do in a repository."""
        if user is None:
            return _PULL if any(glob.matches(repository) for glob in self.anonymous_pull) else NOTHING
        given = [
            grant.actions
            for grant in self.grants
            if (user in grant.users or EVERY_USER in grant.users) and grant.repository.matches(repository)
        ]
        anonymous = _PULL if any(glob.matches(repository) for glob in self.anonymous_pull) else NOTHING
        return anonymous.union(*given)

    def pulled(self, user: str | None) -> tuple[Glob, ...]:
        """Return the globs of the repositories that a user (None: an anonymous client) may pull."""
        given = () if user is None else self.grants
        return self.anonymous_pull + tuple(
            grant.repository
            for grant in given
            if Action.PULL in grant.actions and (user in grant.users or EVERY_USER in grant.users)
        )

    def reads_ledger(self, user: str) -> bool:
        """Return whether a user may read the ledger's entries, which are about all repositories."""
        return any(
            Action.LEDGER in grant.actions and (user in grant.users or EVERY_USER in grant.users)
            for grant in self.grants
        )

    @property
    def all_may_pull(self) -> bool:
        """Whether anonymous clients may pull everything, so that shared HTTP caches may store immutable content."""
        return any(glob.matches_all for glob in self.anonymous_pull)


def parse_grants(tables: Sequence[Mapping[str, object]], anonymous_pull: bool | Sequence[str]) -> Grants:
    """Read the `[[auth.grant]]` tables and `anonymous_pull` (true, false or globs). GrantInvalid names the first fault."""
    if len(tables) > MAX_GRANTS:
        raise GrantInvalid(f"{len(tables)} grants; at most {MAX_GRANTS} are allowed")
    if isinstance(anonymous_pull, bool):
        anonymous_pull = ["**"] if anonymous_pull else []
    open_to_all = tuple(_glob("anonymous_pull", text) for text in anonymous_pull)
    grants = tuple(_parse(number, table) for number, table in enumerate(tables, start=1))
    return Grants(grants or _WITHOUT_GRANTS, open_to_all)


def _parse(number: int, table: Mapping[str, object]) -> Grant:
    where = f"grant {number}"
    unknown = sorted(set(table) - set(GRANT_KEYS))
    if unknown:
        raise GrantInvalid(f"{where}: unknown key {quote(unknown[0])}; expected {', '.join(GRANT_KEYS)}")
    users = _texts(where, "users", table.get("users"))
    names = _texts(where, "actions", table.get("actions"))
    try:
        actions = frozenset(Action(name) for name in names)
    except ValueError:
        wrong = next(name for name in names if name not in set(Action))
        raise GrantInvalid(f"{where}: action {quote(wrong)}; expected {', '.join(Action)}") from None
    repository = table.get("repository", "**")
    if not isinstance(repository, str):
        raise GrantInvalid(f"{where}: repository is {quote(str(repository))}; expected a glob in quotes")
    glob = _glob(f"{where}: repository", repository)
    if Action.LEDGER in actions and not glob.matches_all:
        raise GrantInvalid(
            f'{where}: ledger is for all repositories at once, repository is {quote(repository)}; expected "**", or a '
            "grant of its own"
        )
    return Grant(frozenset(users), glob, actions)


def _texts(where: str, key: str, value: object) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise GrantInvalid(f"{where}: {key} is missing; expected a list of names")
    texts = [item for item in items if isinstance(item, str) and item]
    if not texts or len(texts) != len(list(items)):
        raise GrantInvalid(f"{where}: {key} is {quote(str(value))}; expected a list of names")
    return texts


def _glob(where: str, text: str) -> Glob:
    try:
        return parse_repository_glob(text)
    except GlobInvalid as error:
        raise GrantInvalid(f"{where} = {quote(text)}: {error.message}") from error
