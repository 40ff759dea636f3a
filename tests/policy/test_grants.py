"""Grants: they add up, none takes a right away, and without one the default is to deny."""

from __future__ import annotations

import pytest

from boltseal.policy.grants import MAX_GRANTS, NOTHING, Action, GrantInvalid, parse_grants

CI = {"users": ["ci"], "repository": "shop/**", "actions": ["pull", "push"]}
PUSH_ONLY = {"users": ["ci"], "repository": "drop/**", "actions": ["push"]}


def test_without_grants_every_user_may_pull_and_push_everywhere_and_nothing_else() -> None:
    """Without any grants, each logged-in user may pull and push everywhere, and nothing else."""
    grants = parse_grants([], False)

    assert grants.allowed("anybody", "any/where") == {Action.PULL, Action.PUSH}


def test_anonymous_clients_have_no_rights_by_default() -> None:
    """Without grants, anonymous clients have no rights."""
    assert parse_grants([], False).allowed(None, "any/where") == NOTHING


def test_the_first_grant_ends_the_default() -> None:
    """With the first grant the default rights end."""
    grants = parse_grants([CI], False)

    assert grants.allowed("ci", "shop/app") == {Action.PULL, Action.PUSH}
    assert grants.allowed("ci", "other/app") == NOTHING
    assert grants.allowed("dev", "shop/app") == NOTHING


def test_grants_add_up() -> None:
    """A user has the rights of all grants that match user and repository."""
    grants = parse_grants([CI, {"users": "*", "actions": ["pull"]}, {"users": ["ci"], "actions": "delete"}], False)

    assert grants.allowed("ci", "shop/app") == {Action.PULL, Action.PUSH, Action.DELETE}
    assert grants.allowed("dev", "shop/app") == {Action.PULL}


def test_no_right_contains_another() -> None:
    """No right includes another: an admin needs a grant to push as well."""
    grants = parse_grants([{"users": ["root"], "actions": ["admin"]}], False)

    assert grants.allowed("root", "shop/app") == {Action.ADMIN}


def test_a_star_matches_every_user_and_no_anonymous_client() -> None:
    """`*` matches each logged-in user, and no anonymous client."""
    grants = parse_grants([{"users": ["*"], "actions": ["pull", "push"]}], False)

    assert grants.allowed("anybody", "shop/app") == {Action.PULL, Action.PUSH}
    assert grants.allowed(None, "shop/app") == NOTHING


def test_anonymous_pull_grants_only_pull() -> None:
    """`anonymous_pull` grants pull, and only pull, on the matching repositories to every client."""
    grants = parse_grants([CI], ["public/**"])

    assert grants.allowed(None, "public/app") == {Action.PULL}
    assert grants.allowed("dev", "public/app") == {Action.PULL}
    assert grants.allowed(None, "shop/app") == NOTHING


@pytest.mark.parametrize(("anonymous_pull", "everything"), [(True, True), (False, False), (["a/**"], False)])
def test_only_public_repositories_may_be_cached_by_proxies(anonymous_pull: bool | list[str], everything: bool) -> None:
    """An answer has `Cache-Control: public` only if every client may pull the repository."""
    assert parse_grants([], anonymous_pull).all_may_pull is everything


@pytest.mark.parametrize(
    ("table", "message"),
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
def test_an_invalid_grant_is_reported_and_grants_nothing(table: dict[str, object], message: str) -> None:
    """An invalid grant is an error, so the server does not start with a part of its grants."""
    with pytest.raises(GrantInvalid) as refused:
        parse_grants([CI, table], False)

    assert refused.value.message.startswith("grant 2")
    assert message in refused.value.message


def test_an_invalid_glob_of_anonymous_pull_is_reported() -> None:
    """An invalid glob in `anonymous_pull` is an error, so a typing mistake neither opens nor closes a repository."""
    with pytest.raises(GrantInvalid, match="anonymous_pull"):
        parse_grants([], ["public/**", "Öffentlich"])


def test_too_many_grants_are_refused() -> None:
    """The number of grants is limited, because each request evaluates all."""
    with pytest.raises(GrantInvalid, match=f"at most {MAX_GRANTS}"):
        parse_grants([CI] * (MAX_GRANTS + 1), False)


def test_reports_of_hosts_need_their_own_right() -> None:
    """Reporting for a host needs its own right, and a grant of it is for all repositories."""
    everything = {"users": ["root"], "repository": "**", "actions": ["pull", "push", "delete", "admin", "ledger"]}
    grants = parse_grants([everything, {"users": ["web-1"], "actions": ["report"]}], False)

    assert grants.reports("web-1")
    assert not grants.reports("root")
    with pytest.raises(GrantInvalid, match="report is for all repositories at once"):
        parse_grants([{"users": ["web-1"], "repository": "shop/*", "actions": ["report"]}], False)


def test_the_ledger_needs_its_own_right() -> None:
    """Reading the ledger, whose entries are of all repositories, needs its own right."""
    everything = {"users": ["root"], "repository": "**", "actions": ["pull", "push", "delete", "admin"]}
    grants = parse_grants([everything, {"users": ["auditor"], "actions": ["ledger"]}], False)

    assert grants.reads_ledger("auditor")
    assert not grants.reads_ledger("root")
    assert parse_grants([{"users": "*", "actions": ["ledger"]}], False).reads_ledger("anybody")


@pytest.mark.parametrize(
    ("table", "all_repositories"),
    [
        ({"users": ["root"], "repository": "**", "actions": ["admin"]}, True),
        ({"users": "*", "actions": ["admin"]}, True),
        ({"users": ["root"], "repository": "shop/**", "actions": ["admin"]}, False),
        ({"users": ["root"], "actions": ["pull", "push", "delete"]}, False),
        ({"users": ["other"], "actions": ["admin"]}, False),
    ],
)
def test_who_administers_all_repositories(table: dict[str, object], all_repositories: bool) -> None:
    """One grant has to give the user `admin` in every repository."""
    assert parse_grants([table], False).administers_all("root") is all_repositories


def test_the_ledger_of_a_part_can_not_be_granted() -> None:
    """A grant of the ledger for some repositories, which would have no effect, is an error."""
    with pytest.raises(GrantInvalid, match="ledger is for all repositories at once"):
        parse_grants([{"users": ["auditor"], "repository": "shop/**", "actions": ["ledger"]}], False)


@pytest.mark.parametrize("user", ["ci", "dev", None])
@pytest.mark.parametrize("anonymous", [False, True, ["public/**"]])
def test_the_globs_that_a_user_may_pull_are_those_of_its_rights(user: str | None, anonymous: bool | list[str]) -> None:
    """A repository matches one of the globs exactly if the user may pull from it."""
    grants = parse_grants([CI, {"users": "*", "repository": "all/*", "actions": ["pull"]}, PUSH_ONLY], anonymous)
    globs = grants.pulled(user)

    for repository in ("shop/app", "all/x", "all/x/y", "public/x", "drop/box"):
        may = any(glob.matches(repository) for glob in globs)
        assert may == (Action.PULL in grants.allowed(user, repository))


def test_groups_give_people_of_the_provider_what_users_do_not() -> None:
    """A person has the grants for a group, for all people at the provider, and for the own name; never those for every user."""
    tables: list[dict[str, object]] = [
        {"users": ["*"], "repository": "all/**", "actions": ["pull"]},
        {"groups": ["dev"], "repository": "dev/**", "actions": ["pull", "push"]},
        {"groups": ["*"], "repository": "people/**", "actions": ["pull"]},
        {"users": ["alice@sso"], "groups": ["ops"], "repository": "**", "actions": ["admin", "ledger"]},
    ]
    grants, dev, none = parse_grants(tables, anonymous_pull=False), frozenset({"dev"}), frozenset[str]()

    assert grants.allowed("bob@sso", "dev/app", dev) == {"pull", "push"}
    assert grants.allowed("bob@sso", "all/app", dev) == frozenset()
    assert grants.allowed("bob@sso", "people/app", none) == {"pull"}
    assert grants.allowed("bob@sso", "dev/app") == frozenset()
    assert [str(glob) for glob in grants.pulled("bob@sso", dev)] == ["dev/**", "people/**"]
    assert grants.administers_all("alice@sso", none)
    assert not grants.administers_all("bob@sso", dev)
    assert grants.reads_ledger("bob@sso", frozenset({"ops"}))


def test_without_grants_people_of_the_provider_have_nothing() -> None:
    """The default, that every user may pull and push, is for users of this registry."""
    grants = parse_grants([], anonymous_pull=False)

    assert grants.allowed("ci", "shop/app") == {"pull", "push"}
    assert not grants.admits("alice@sso", frozenset({"dev"}))


@pytest.mark.parametrize(
    "table", [{"groups": [], "actions": ["pull"]}, {"groups": "", "actions": ["pull"]}, {"actions": ["pull"]}]
)
def test_a_grant_is_for_users_or_groups(table: dict[str, object]) -> None:
    """A grant without users and groups is a mistake."""
    with pytest.raises(GrantInvalid):
        parse_grants([table], anonymous_pull=False)
