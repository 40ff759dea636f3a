"""The scope of an API token: which actions it allows, in which repositories. Pure.

A scope gives no right by itself. A request with the token may do what both the scope and the grants of the token's owner
allow at that moment. One token has one list of repository globs and one list of actions; each action counts in each repository.
`tokens` is no action of a grant: it lets the token create, list and revoke tokens of its owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.policy.durations import UNITS_US
from boltseal.policy.globs import Glob, GlobInvalid, parse_repository_glob
from boltseal.policy.grants import FOR_ALL_REPOSITORIES, NOTHING, Action
from boltseal.policy.unreachable_rules import each_included

TOKENS: Final = "tokens"
"""The scope's word for the management of tokens."""
SCOPE_ACTIONS: Final = (*(str(action) for action in Action), TOKENS)
MAX_REPOSITORIES: Final = 100
MAX_GLOB_CHARACTERS: Final = 4096
"""Characters of all globs of a scope. Each user writes scopes, and each server parses and keeps them."""


class ScopeInvalid(Invalid):
    """A scope that no token can have."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """How long API tokens work, in microseconds. `owner_seen_within_us`: how long after a login of a person with the password."""

    default_life_us: int
    max_life_us: int
    owner_seen_within_us: int


DEFAULT_TERMS: Final = TokenTerms(90 * UNITS_US["d"], 366 * UNITS_US["d"], 30 * UNITS_US["d"])


@dataclass(frozen=True, slots=True)
class TokenScope:
    """What a token allows at most. `manages_tokens`: it may create, list and revoke tokens of its owner. Made by `parse_scope`."""

    repositories: tuple[Glob, ...]
    actions: frozenset[Action]
    manages_tokens: bool = False

    def allowed(self, repository: str) -> frozenset[Action]:
        """Return the actions that the scope allows in a repository."""
        return self.actions if any(glob.matches(repository) for glob in self.repositories) else NOTHING

    def allows_everywhere(self, action: Action) -> bool:
        """Return whether the scope allows an action in every repository, by one glob."""
        return action in self.actions and any(glob.matches_all for glob in self.repositories)

    def includes(self, other: TokenScope) -> bool:
        """Return whether this scope allows all that another one does, as far as the comparison of one glob with one shows.

        The answer True is always right.
        """
        return (
            self.actions >= other.actions
            and self.manages_tokens >= other.manages_tokens
            and each_included(other.repositories, self.repositories)
        )

    @property
    def words(self) -> list[str]:
        """The actions as `parse_scope` takes them, sorted."""
        return sorted([*map(str, self.actions), *([TOKENS] if self.manages_tokens else [])])

    @property
    def globs(self) -> list[str]:
        """The globs as `parse_scope` takes them, sorted."""
        return sorted({glob.text for glob in self.repositories})

    def __str__(self) -> str:
        return f"{', '.join(self.words)} in {', '.join(self.globs)}"


def parse_scope(repositories: Sequence[str], actions: Sequence[str]) -> TokenScope:
    """Return the scope with these globs and actions. Raises: ScopeInvalid: names the first fault."""
    if not repositories:
        raise ScopeInvalid('the scope has no repository; expected globs, such as "shop/**", or "**" for all')
    if len(repositories) > MAX_REPOSITORIES:
        raise ScopeInvalid(f"the scope has {len(repositories)} globs; at most {MAX_REPOSITORIES} are allowed")
    characters = sum(map(len, set(repositories)))
    if characters > MAX_GLOB_CHARACTERS:
        raise ScopeInvalid(
            f"the globs of the scope have {characters} characters; at most {MAX_GLOB_CHARACTERS} are allowed: use fewer globs"
        )
    if not actions:
        raise ScopeInvalid(f"the scope has no action; expected some of {', '.join(SCOPE_ACTIONS)}")
    wrong = next((action for action in actions if action not in SCOPE_ACTIONS), None)
    if wrong is not None:
        raise ScopeInvalid(f"action {quote(wrong)} of the scope; expected {', '.join(SCOPE_ACTIONS)}")
    globs = tuple(_glob(text) for text in sorted(set(repositories)))
    of_grants = frozenset(Action(action) for action in actions if action != TOKENS)
    for action in FOR_ALL_REPOSITORIES:
        if action in of_grants and not any(glob.matches_all for glob in globs):
            raise ScopeInvalid(f'{action} is for all repositories at once; expected the repository "**" in the scope')
    return TokenScope(globs, of_grants, TOKENS in actions)


def _glob(text: str) -> Glob:
    try:
        return parse_repository_glob(text)
    except GlobInvalid as error:
        raise ScopeInvalid(f"repository {quote(text)} of the scope: {error.message}") from error
