"""Authorization: which user may do what in which repository, by grants over repository globs. Pure.

A grant gives some users, or some groups of an identity provider, some actions on the repositories that its glob matches. Grants
add up, none takes a right away, and the default is deny. Without any grant in the configuration every user may pull and push
everywhere, and no user may delete, read the ledger's entries or administrate. Anonymous clients may at most pull, where
`anonymous_pull` allows it. People of an identity provider have what grants give to their groups or to their own name;
`users = ["*"]` gives them nothing, since any person in the world may have an account at a provider. Authentication happens elsewhere
(`server.auth`). A right on one repository gives nothing on another (guarantee 13).
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
    "users": SettingKey("[]", "Users of the grant; `*`: every user of this registry, without people of `[auth.oidc]`."),
    "groups": SettingKey(
        "[]", "Groups of `[auth.oidc]` whose members have the grant; `*`: all people who log in there."
    ),
    "repository": SettingKey("**", "Repositories of the grant."),
    "actions": SettingKey("", "`pull`, `push`, `delete`, `ledger`, `admin`, `report`; none includes another."),
}
EVERYONE: Final = "*"


class GrantInvalid(Invalid):
    """An invalid grant. The server does not start."""


class Action(StrEnum):
    """An action that a grant allows. No action includes another."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    LEDGER = "ledger"
    ADMIN = "admin"
    REPORT = "report"


FOR_ALL_REPOSITORIES: Final = (Action.LEDGER, Action.REPORT)
"""The actions that concern all repositories at once: a grant or scope that has one needs the repository `**`."""
EVERY_ACTION: Final = frozenset(Action)
NOTHING: Final[frozenset[Action]] = frozenset()
_PULL: Final = frozenset({Action.PULL})


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant of actions to users (`*`: all with a login) and to groups on the repositories that the glob matches."""

    users: frozenset[str]
    repository: Glob
    actions: frozenset[Action]
    groups: frozenset[str] = frozenset()

    def applies(self, user: str, groups: frozenset[str] | None) -> bool:
        """Return whether a user has the grant. `groups`: of a person of the identity provider; None: a user of this registry."""
        if groups is None:
            return user in self.users or EVERYONE in self.users
        return user in self.users or not self.groups.isdisjoint(groups | {EVERYONE})


_WITHOUT_GRANTS: Final = (
    Grant(frozenset({EVERYONE}), parse_repository_glob("**"), frozenset({Action.PULL, Action.PUSH})),
)


@dataclass(frozen=True, slots=True)
class Grants:
    """Every grant in force. Made by `parse_grants`.

    `groups` of a method: those of a person of the identity provider; None: a user of this registry, or an anonymous client.
    """

    grants: tuple[Grant, ...] = _WITHOUT_GRANTS
    anonymous_pull: tuple[Glob, ...] = ()

    def allowed(self, user: str | None, repository: str, groups: frozenset[str] | None = None) -> frozenset[Action]:
        """Return the actions that a user (None: an anonymous client) may do in a repository."""
        if user is None:
            return _PULL if any(glob.matches(repository) for glob in self.anonymous_pull) else NOTHING
        given = [
            grant.actions
            for grant in self.grants
            if grant.applies(user, groups) and grant.repository.matches(repository)
        ]
        anonymous = _PULL if any(glob.matches(repository) for glob in self.anonymous_pull) else NOTHING
        return anonymous.union(*given)

    def pulled(self, user: str | None, groups: frozenset[str] | None = None) -> tuple[Glob, ...]:
        """Return the globs of the repositories that a user (None: an anonymous client) may pull."""
        if user is None:
            return self.anonymous_pull
        return self.anonymous_pull + tuple(
            grant.repository for grant in self.grants if Action.PULL in grant.actions and grant.applies(user, groups)
        )

    def reads_ledger(self, user: str, groups: frozenset[str] | None = None) -> bool:
        """Return whether a user may read the ledger's entries, which are about all repositories."""
        return any(Action.LEDGER in grant.actions and grant.applies(user, groups) for grant in self.grants)

    def reports(self, user: str, groups: frozenset[str] | None = None) -> bool:
        """Return whether a user may report what hosts run, which may be images of all repositories."""
        return any(Action.REPORT in grant.actions and grant.applies(user, groups) for grant in self.grants)

    def administers_all(self, user: str, groups: frozenset[str] | None = None) -> bool:
        """Return whether a user has the right `admin` in every repository, by one grant."""
        return any(
            Action.ADMIN in grant.actions and grant.repository.matches_all and grant.applies(user, groups)
            for grant in self.grants
        )

    def admits(self, user: str, groups: frozenset[str]) -> bool:
        """Return whether any grant applies to a person of the identity provider. Without one the person is no user here."""
        return any(grant.applies(user, groups) for grant in self.grants)

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
    users = [] if "users" not in table and "groups" in table else _texts(where, "users", table.get("users"))
    groups = _texts(where, "groups", table["groups"]) if "groups" in table else []
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
    for action in FOR_ALL_REPOSITORIES:
        if action in actions and not glob.matches_all:
            raise GrantInvalid(
                f'{where}: {action} is for all repositories at once, repository is {quote(repository)}; expected "**", or '
                "a grant of its own"
            )
    return Grant(frozenset(users), glob, actions, frozenset(groups))


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
