"""Who may do what, where: grants add up, nothing takes away, and what none gives is not allowed."""

from __future__ import annotations

import pytest

from boltseal.policy.grants import MAX_GRANTS, NOTHING, Action, GrantInvalid, parse_grants

CI = {"users": ["ci"], "repository": "shop/**", "actions": ["pull", "push"]}


def test_without_grants_every_user_may_pull_and_push_everywhere_and_nothing_else() -> None:
    """The default for a registry that has users and no grants."""
    grants = parse_grants([], False)

    assert grants.allowed("anybody", "any/where") == {Action.PULL, Action.PUSH}


def test_without_a_login_nobody_may_do_anything() -> None:
    """The default for somebody who is not known."""
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


def test_a_star_means_every_user_and_nobody_without_a_login() -> None:
    """`*` is whoever is known."""
    grants = parse_grants([{"users": ["*"], "actions": ["pull", "push"]}], False)

    assert grants.allowed("anybody", "shop/app") == {Action.PULL, Action.PUSH}
    assert grants.allowed(None, "shop/app") == NOTHING


def test_what_everybody_may_pull_everybody_may_only_pull() -> None:
    """`anonymous_pull` opens the repositories its globs match, to users too, and gives nothing but pull."""
    grants = parse_grants([CI], ["public/**"])

    assert grants.allowed(None, "public/app") == {Action.PULL}
    assert grants.allowed("dev", "public/app") == {Action.PULL}
    assert grants.allowed(None, "shop/app") == NOTHING


@pytest.mark.parametrize(("anonymous_pull", "everything"), [(True, True), (False, False), (["a/**"], False)])
def test_caches_on_the_way_may_keep_only_what_everybody_may_pull(
    anonymous_pull: bool | list[str], everything: bool
) -> None:
    """Only where all is open to all may an answer be called public."""
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
def test_a_grant_that_cannot_be_read_is_named_and_gives_nothing(table: dict[str, object], told: str) -> None:
    """Doubt refuses: the server does not start with half of its grants."""
    with pytest.raises(GrantInvalid) as refused:
        parse_grants([CI, table], False)

    assert refused.value.message.startswith("grant 2")
    assert told in refused.value.message


def test_a_glob_of_anonymous_pull_that_cannot_be_read_is_named() -> None:
    """A typing mistake there must not open, nor close, what was meant."""
    with pytest.raises(GrantInvalid, match="anonymous_pull"):
        parse_grants([], ["public/**", "Öffentlich"])


def test_more_grants_than_anybody_can_mean_are_refused() -> None:
    """Each request asks all of them, so their number is bounded."""
    with pytest.raises(GrantInvalid, match=f"at most {MAX_GRANTS}"):
        parse_grants([CI] * (MAX_GRANTS + 1), False)


def test_the_ledger_is_read_by_those_who_were_granted_it() -> None:
    """Its entries are of all repositories at once; no other right contains this one."""
    everything = {"users": ["root"], "repository": "**", "actions": ["pull", "push", "delete", "admin"]}
    grants = parse_grants([everything, {"users": ["auditor"], "actions": ["ledger"]}], False)

    assert grants.reads_ledger("auditor")
    assert not grants.reads_ledger("root")
    assert parse_grants([{"users": "*", "actions": ["ledger"]}], False).reads_ledger("anybody")


def test_the_ledger_of_a_part_can_not_be_granted() -> None:
    """A grant that would give nothing is a mistake, and says so."""
    with pytest.raises(GrantInvalid, match="ledger is for all repositories at once"):
        parse_grants([{"users": ["auditor"], "repository": "shop/**", "actions": ["ledger"]}], False)
