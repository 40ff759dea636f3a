"""Scopes of API tokens: which actions they allow where, and which scope includes another."""

from __future__ import annotations

import pytest

from boltseal.policy.grants import Action
from boltseal.policy.token_scope import MAX_GLOB_CHARACTERS, MAX_REPOSITORIES, ScopeInvalid, parse_scope


def test_a_scope_allows_its_actions_in_its_repositories() -> None:
    """Each action counts in each repository that a glob matches, and in no other."""
    scope = parse_scope(["shop/*", "base"], ["pull", "push"])

    assert scope.allowed("shop/app") == scope.allowed("base") == {Action.PULL, Action.PUSH}
    assert scope.allowed("shop/app/deeper") == scope.allowed("other") == frozenset()


def test_a_scope_is_printed_as_it_was_parsed() -> None:
    """Globs and actions are sorted and named once, and parse to the same scope."""
    scope = parse_scope(["b/**", "a", "a"], ["tokens", "pull", "pull"])

    assert (scope.globs, scope.words, str(scope)) == (["a", "b/**"], ["pull", "tokens"], "pull, tokens in a, b/**")
    assert parse_scope(scope.globs, scope.words) == scope
    assert scope.manages_tokens


def test_only_a_glob_of_everything_allows_everywhere() -> None:
    """What concerns all repositories needs the action and the glob `**`."""
    assert parse_scope(["**"], ["admin"]).allows_everywhere(Action.ADMIN)
    assert not parse_scope(["**"], ["pull"]).allows_everywhere(Action.ADMIN)
    assert not parse_scope(["shop/**"], ["admin"]).allows_everywhere(Action.ADMIN)


@pytest.mark.parametrize(
    ("wide", "narrow", "included"),
    [
        ((["shop/**"], ["pull", "push"]), (["shop/app"], ["pull"]), True),
        ((["**"], ["pull", "tokens"]), (["a", "b/*"], ["pull", "tokens"]), True),
        ((["shop/**"], ["pull"]), (["shop/app"], ["pull", "push"]), False),
        ((["shop/**"], ["pull"]), (["shop/app", "other"], ["pull"]), False),
        ((["shop/*"], ["pull"]), (["shop/**"], ["pull"]), False),
        ((["**"], ["pull"]), (["**"], ["pull", "tokens"]), False),
    ],
)
def test_a_scope_includes_only_what_it_allows(
    wide: tuple[list[str], list[str]], narrow: tuple[list[str], list[str]], included: bool
) -> None:
    """A scope includes another if it has all of its actions and each of its globs is within one of the own."""
    assert parse_scope(*wide).includes(parse_scope(*narrow)) is included


@pytest.mark.parametrize(
    ("repositories", "actions", "words"),
    [
        ([], ["pull"], "no repository"),
        (["a"], [], "no action"),
        (["a"], ["fly"], 'action "fly" of the scope; expected pull, push, delete, ledger, admin, report, tokens'),
        (["Shop"], ["pull"], 'repository "Shop" of the scope: "S" can\'t be in a repository name'),
        (
            [f"{number:02}{'x' * 98}" for number in range(41)],
            ["pull"],
            f"4100 characters; at most {MAX_GLOB_CHARACTERS}",
        ),
        (["a"] * (MAX_REPOSITORIES + 1), ["pull"], f"at most {MAX_REPOSITORIES} are allowed"),
        (["shop/**"], ["ledger"], "ledger is for all repositories at once"),
    ],
)
def test_an_invalid_scope_is_refused_with_its_fault(repositories: list[str], actions: list[str], words: str) -> None:
    """The message names what is wrong and what is expected."""
    with pytest.raises(ScopeInvalid) as refused:
        parse_scope(repositories, actions)

    assert words in refused.value.message
