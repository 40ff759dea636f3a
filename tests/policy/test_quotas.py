"""Quotas: to which users each applies, what it refuses, and the error for a wrong table."""

from __future__ import annotations

import pytest

from boltseal.policy.quotas import MAX_QUOTAS, UNLIMITED, Quota, QuotaExceeded, QuotaInvalid, parse_quotas

GIB = 1024**3


def test_the_first_matching_quota_applies() -> None:
    """Only the first matching quota applies, even if a later one is larger."""
    quotas = parse_quotas(
        [
            {"users": ["ci", "ana"], "max_bytes": "2 GiB"},
            {"users": "*", "max_repositories": 3},
            {"users": ["ana"], "max_bytes": "9 GiB"},
        ]
    )

    assert quotas.of("ana") == Quota(frozenset({"ci", "ana"}), 2 * GIB)
    assert quotas.of("zoe").max_repositories == 3


def test_a_star_matches_every_user_with_a_login() -> None:
    """`*` matches each logged-in user, and `anonymous` matches anonymous clients."""
    for_users = parse_quotas([{"users": ["*"], "max_bytes": 1}])
    for_anonymous = parse_quotas([{"users": ["anonymous"], "max_bytes": 1}])

    assert for_users.of("anonymous") is UNLIMITED
    assert for_anonymous.of("anonymous").max_bytes == 1
    assert for_anonymous.of("ci") is UNLIMITED


def test_a_mirror_is_not_a_logged_in_user() -> None:
    """`*` does not match a mirror, whose size has its own setting, but a quota may name it."""
    for_users = parse_quotas([{"users": ["*"], "max_bytes": 1}])
    mirror = parse_quotas([{"users": ["mirror:docker.io"], "max_bytes": 1}])

    assert for_users.of("mirror:docker.io") is UNLIMITED
    assert mirror.of("mirror:docker.io").max_bytes == 1


def test_without_a_quota_nothing_is_refused() -> None:
    """Without a quota, only the disk limits a push."""
    parse_quotas([]).of("ci").check("ci", 10**18, 10**6)


def test_up_to_the_limit_and_not_a_byte_more() -> None:
    """A user may store exactly the limit, and not a byte more."""
    quota = Quota(frozenset({"ci"}), max_bytes=100, max_repositories=2)
    quota.check("ci", 100, 2)
    with pytest.raises(QuotaExceeded, match="ci would hold 101 bytes and may hold 100: delete"):
        quota.check("ci", 101, 2)
    with pytest.raises(QuotaExceeded, match="ci would have made 3 repositories and may make 2: push to one"):
        quota.check("ci", 100, 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "quota 1: users is"),
        ({"users": [], "max_bytes": 1}, "users is"),
        ({"users": ["ci", 3], "max_bytes": 1}, "users is"),
        ({"users": [""], "max_bytes": 1}, "users is"),
        ({"users": 3, "max_bytes": 1}, "users is"),
        ({"users": ["ci"]}, "it limits nothing"),
        ({"users": ["ci"], "max_byte": 1}, 'unknown key "max_byte"; expected users, max_bytes, max_repositories'),
        ({"users": ["ci"], "max_bytes": "much"}, 'max_bytes is "much"; expected a size, such as "50 GiB"'),
        ({"users": ["ci"], "max_bytes": -1}, "max_bytes is"),
        ({"users": ["ci"], "max_bytes": True}, "max_bytes is"),
        ({"users": ["ci"], "max_bytes": "1.5GiB"}, "max_bytes is"),
        ({"users": ["ci"], "max_repositories": -1}, "max_repositories is"),
        ({"users": ["ci"], "max_repositories": "many"}, "max_repositories is"),
        ({"users": ["ci"], "max_repositories": True}, "max_repositories is"),
    ],
)
def test_an_invalid_quota_is_refused(table: dict[str, object], message: str) -> None:
    """An invalid quota is refused with position, value and expected form."""
    with pytest.raises(QuotaInvalid) as refused:
        parse_quotas([table])

    assert message in refused.value.message


def test_too_many_quotas_are_refused() -> None:
    """The number of quotas is limited, because each push evaluates them."""
    with pytest.raises(QuotaInvalid, match="10001 quotas; at most 10000"):
        parse_quotas([{"users": ["ci"], "max_bytes": 1}] * (MAX_QUOTAS + 1))
