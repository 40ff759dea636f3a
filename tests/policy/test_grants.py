"""Who may do what, where: grants add up, nothing takes away, and what none gives is not allowed."""

from __future__ import annotations

import pytest

from boltseal.policy.grants import MAX_GRANTS, NOTHING, Action, GrantInvalid, parse_grants

CI = {"users": ["ci"], "repository": "shop/**", "actions": ["pull", "push"]}


def test_without_grants_every_user_may_pull_and_push_everywhere_and_nothing_else() -> None:
    """The default for a registry that has users and no grants."""
    grants = parse_grants([], False)

    assert grants.allowed("anybody", "any/where") == {Action.PULL, Action.PUSH}


def test_anonymous_clients_have_no_rights_by_default() -> None:
    """Without grants an anonymous client may do nothing."""
    assert parse_grants([], False).allowed(None, "any/where") == NOTHING


def test_the_first_grant_ends_the_default() -> None:
    """Who writes one grant says all of it."""
    grants = parse_grants([CI], False)

    assert grants.allowed("ci", "shop/app") == {Action.PULL, Action.PUSH}
    assert grants.allowed("ci", "other/app") == NOTHING
    assert grants.allowed("dev", "shop/app") == NOTHING


def test_grants_add_up() -> None:
    """Every grant that speaks of a user and a repository gives what it gives."""
    grants = parse_grants([CI, {"users": "*", "actions": ["pull"]}, {"users": ["ci"], "actions": "delete"}], False)

    assert grants.allowed("ci", "shop/app") == {Action.PULL, Action.PUSH, Action.DELETE}
    assert grants.allowed("dev", "shop/app") == {Action.PULL}


def test_no_right_contains_another() -> None:
    """An admin of a repository may not push to it without being given that too."""
    grants = parse_grants([{"users": ["root"], "actions": ["admin"]}], False)

    assert grants.allowed("root", "shop/app") == {Action.ADMIN}


def test_a_star_matches_every_user_and_no_anonymous_client() -> None:
    """`*` matches each client that has logged in."""
    grants = parse_grants([{"users": ["*"], "actions": ["pull", "push"]}], False)

    assert grants.allowed("anybody", "shop/app") == {Action.PULL, Action.PUSH}
    assert grants.allowed(None, "shop/app") == NOTHING


def test_anonymous_pull_grants_only_pull() -> None:
    """`anonymous_pull` opens the repositories its globs match, to users as well, and grants only pull."""
    grants = parse_grants([CI], ["public/**"])

    assert grants.allowed(None, "public/app") == {Action.PULL}
    assert grants.allowed("dev", "public/app") == {Action.PULL}
    assert grants.allowed(None, "shop/app") == NOTHING


@pytest.mark.parametrize(("anonymous_pull", "everything"), [(True, True), (False, False), (["a/**"], False)])
def test_only_public_repositories_may_be_cached_by_proxies(anonymous_pull: bool | list[str], everything: bool) -> None:
    """An answer is only `public` if the repository is open to every client."""
    assert parse_grants([], anonymous_pull).all_may_pull is everything


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"users": ["ci"], "actions": ["pull"], "repositories": "**"}, 'unknown key "repositories"'),
        ({"actions": ["pull"]}, "users is missing"),
        ({"users": {"ci": 1}, "actions": ["pull"]}, "users is missing"),
        ({"users": [], "actions": ["pull"]}, "users is"),
        ({"users": ["ci", ""], "actions": ["pull"]}, "users is"),
        ({"users": ["ci", 7], "actions": ["pull"]}, "users is"),
        ({"users": ["ci"]}, "actions is missing"),
        ({"users": ["ci"], "actions": ["pull", "write"]}, 'action "write"; expected pull, push'),
        ({"users": ["ci"], "actions": ["pull"], "repository": 3}, 'repository is "3"; expected a glob'),
        ({"users": ["ci"], "actions": ["pull"], "repository": "Shop"}, 'repository = "Shop"'),
    ],
)
def test_an_invalid_grant_is_reported_and_grants_nothing(table: dict[str, object], told: str) -> None:
    """The server does not start with half of its grants."""
    with pytest.raises(GrantInvalid) as refused:
        parse_grants([CI, table], False)

    assert refused.value.message.startswith("grant 2")
    assert told in refused.value.message


def test_an_invalid_glob_of_anonymous_pull_is_reported() -> None:
    """A typing mistake must neither open nor close a repository."""
    with pytest.raises(GrantInvalid, match="anonymous_pull"):
        parse_grants([], ["public/**", "Öffentlich"])


def test_too_many_grants_are_refused() -> None:
    """Each request evaluates all grants, so their number is bounded."""
    with pytest.raises(GrantInvalid, match=f"at most {MAX_GRANTS}"):
        parse_grants([CI] * (MAX_GRANTS + 1), False)


def test_the_ledger_needs_its_own_right() -> None:
    """The entries are of all repositories at once; no other right contains this one."""
    everything = {"users": ["root"], "repository": "**", "actions": ["pull", "push", "delete", "admin"]}
    grants = parse_grants([everything, {"users": ["auditor"], "actions": ["ledger"]}], False)

    assert grants.reads_ledger("auditor")
    assert not grants.reads_ledger("root")
    assert parse_grants([{"users": "*", "actions": ["ledger"]}], False).reads_ledger("anybody")


def test_the_ledger_of_a_part_can_not_be_granted() -> None:
    """A grant that would give nothing is a mistake, and says so."""
    with pytest.raises(GrantInvalid, match="ledger is for all repositories at once"):
        parse_grants([{"users": ["auditor"], "repository": "shop/**", "actions": ["ledger"]}], False)
