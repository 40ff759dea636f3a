"""Quotas per user: bytes that their pushes added, and repositories that they created. Pure.

    [[auth.quota]]
    users = ["ci"]            names; `*`: every authenticated user; `anonymous`: clients without a login
    max_bytes = "50 GiB"      of blobs and manifests, in each repository of its own
    max_repositories = 20

The first quota that names a user applies; without one there is no limit. Usage is counted in
`server.storage.metadata.usage`. A quota limits additions: a user over quota may still pull, delete, and push existing content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

from boltseal.errors import Denied, Invalid, quote
from boltseal.policy.grants import EVERYONE
from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.policy.setting_keys import SettingKey
from boltseal.policy.sizes import SizeInvalid, parse_size

MAX_QUOTAS: Final = 10_000
QUOTA_KEYS: Final = {
    "users": SettingKey(
        "", "Users of the quota; the first quota that names a user applies; `*`: every user with a login."
    ),
    "max_bytes": SettingKey(
        "",
        (
            "Total size of blobs and manifests that a user's pushes may add, counted per repository, mounts included "
            "(403). Content from before format 2 does not count."
        ),
    ),
    "max_repositories": SettingKey("", "Number of repositories that a user's pushes may create (403)."),
}
ANONYMOUS: Final = "anonymous"


class QuotaInvalid(Invalid):
    """An invalid quota. The server does not start."""


class QuotaExceeded(Denied):
    """A push would exceed the user's quota. None of it was stored."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of some users; None: unlimited."""

    users: frozenset[str]
    max_bytes: int | None = None
    max_repositories: int | None = None

    def check(self, user: str, size_bytes: int, repositories: int) -> None:
        """Check the usage that a push would lead to. Raises: QuotaExceeded."""
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            raise QuotaExceeded(
                f"{user} would hold {size_bytes} bytes and may hold {self.max_bytes}: delete what is not needed any "
                "more, or ask the operator of this registry for a larger quota"
            )
        if self.max_repositories is not None and repositories > self.max_repositories:
            raise QuotaExceeded(
                f"{user} would have made {repositories} repositories and may make {self.max_repositories}: push to one "
                "that exists, or ask the operator of this registry for a larger quota"
            )


UNLIMITED: Final = Quota(frozenset())


@dataclass(frozen=True, slots=True)
class Quotas:
    """Every quota in force, in order. Made by `parse_quotas`."""

    quotas: tuple[Quota, ...] = ()

    def of(self, user: str) -> Quota:
        """Return the quota of a user; `anonymous`: of clients without a login. `*` covers neither these nor mirrors."""
        names = {user} if user == ANONYMOUS or user.startswith(MIRROR_ACTOR) else {user, EVERYONE}
        return next((quota for quota in self.quotas if quota.users & names), UNLIMITED)


NO_QUOTAS: Final = Quotas()


def parse_quotas(tables: Sequence[Mapping[str, object]]) -> Quotas:
    """Read the `[[auth.quota]]` tables. Raises: QuotaInvalid for the first fault."""
    if len(tables) > MAX_QUOTAS:
        raise QuotaInvalid(f"{len(tables)} quotas; at most {MAX_QUOTAS} are allowed")
    return Quotas(tuple(_parse(f"quota {number}", table) for number, table in enumerate(tables, start=1)))


def _parse(where: str, table: Mapping[str, object]) -> Quota:
    unknown = sorted(set(table) - set(QUOTA_KEYS))
    if unknown:
        raise QuotaInvalid(f"{where}: unknown key {quote(unknown[0])}; expected {', '.join(QUOTA_KEYS)}")
    users = table.get("users")
    named = [users] if isinstance(users, str) else users
    if not isinstance(named, Sequence) or not named or not all(isinstance(name, str) and name for name in named):
        raise QuotaInvalid(f"{where}: users is {quote(str(users))}; expected a list of names")
    if len(table) == 1:
        raise QuotaInvalid(f"{where}: it limits nothing; expected max_bytes, max_repositories or both")
    repositories = table.get("max_repositories")
    if repositories is not None and not _is_count(repositories):
        raise QuotaInvalid(f"{where}: max_repositories is {quote(str(repositories))}; expected a number")
    return Quota(frozenset(named), _size(where, table.get("max_bytes")), repositories)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _size(where: str, size: object) -> int | None:
    try:
        return None if size is None else parse_size(size)
    except SizeInvalid as error:
        raise QuotaInvalid(f"{where}: max_bytes is {error.message}") from error
