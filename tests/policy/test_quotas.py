"""Quotas: whose one is, what it refuses, and what a person reads when a table is wrong."""

from __future__ import annotations

import pytest

from boltseal.policy.quotas import MAX_QUOTAS, UNLIMITED, Quota, QuotaExceeded, QuotaInvalid, parse_quotas

GIB = 1024**3


def test_the_first_matching_quota_applies() -> None:
    """Later quotas, also larger ones, do not apply."""
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
    """Anonymous clients are matched by `anonymous`."""
    everybody = parse_quotas([{"users": ["*"], "max_bytes": 1}])
    nobody = parse_quotas([{"users": ["anonymous"], "max_bytes": 1}])

    assert everybody.of("anonymous") is UNLIMITED
    assert nobody.of("anonymous").max_bytes == 1
    assert nobody.of("ci") is UNLIMITED


def test_a_mirror_is_no_user_with_a_login() -> None:
    """What it may keep is its own setting; it can still be named."""
    everybody = parse_quotas([{"users": ["*"], "max_bytes": 1}])
    mirror = parse_quotas([{"users": ["mirror:docker.io"], "max_bytes": 1}])

    assert everybody.of("mirror:docker.io") is UNLIMITED
    assert mirror.of("mirror:docker.io").max_bytes == 1


def test_without_a_quota_nothing_is_too_much() -> None:
    """The disk is the limit."""
    parse_quotas([]).of("ci").check("ci", 10**18, 10**6)


def test_up_to_the_limit_and_not_a_byte_more() -> None:
    """The limit itself may be held."""
    quota = Quota(frozenset({"ci"}), max_bytes=100, max_repositories=2)
    quota.check("ci", 100, 2)
    with pytest.raises(QuotaExceeded, match="ci would hold 101 bytes and may hold 100: delete"):
        quota.check("ci", 101, 2)
    with pytest.raises(QuotaExceeded, match="ci would have made 3 repositories and may make 2: push to one"):
        quota.check("ci", 100, 3)


@pytest.mark.parametrize(
    ("table", "said"),
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
def test_an_invalid_quota_is_refused(table: dict[str, object], said: str) -> None:
    """The message has the position, the value and what was expected."""
    with pytest.raises(QuotaInvalid) as refused:
        parse_quotas([table])

    assert said in refused.value.message


def test_too_many_quotas_are_refused() -> None:
    """Each push looks through them."""
    with pytest.raises(QuotaInvalid, match="10001 quotas; at most 10000"):
        parse_quotas([{"users": ["ci"], "max_bytes": 1}] * (MAX_QUOTAS + 1))
