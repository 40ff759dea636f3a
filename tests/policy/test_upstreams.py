"""The `[[upstream]]` tables: what they mean, and what is said of those that can't be."""

from __future__ import annotations

from typing import Any

import pytest

from boltseal.oci.reference import Repository, Tag
from boltseal.policy.upstreams import (
    MAX_RULES,
    MAX_UPSTREAMS,
    FirstSeen,
    MoveTerms,
    OnGone,
    OnMove,
    UpstreamInvalid,
    UpstreamTerms,
    parse_upstreams,
)

HUB: dict[str, Any] = {"name": "docker.io"}
SECRET = "/etc/secret"  # noqa: S105 - where one would be
VARIABLE = "HUB_PASSWORD"
NODE = Repository("library/node")


def terms(**more: object) -> UpstreamTerms:
    (found,) = parse_upstreams([{**HUB, **more}])
    return found


def refusal(*tables: dict[str, Any]) -> str:
    with pytest.raises(UpstreamInvalid) as caught:
        parse_upstreams(tables)
    return caught.value.message


def test_an_upstream_needs_only_a_name() -> None:
    """By default it is asked over TLS at its own name, every ten minutes; deleted tags are served and reported."""
    found = terms()

    assert found == UpstreamTerms(name="docker.io", authority="docker.io")
    assert (found.plain_http, found.fresh_us, found.on_gone, found.keep_bytes) == (
        False,
        600_000_000,
        OnGone.ALERT,
        None,
    )


def test_every_key_means_what_it_says() -> None:
    """All of them at once."""
    found = terms(
        name="hub",
        url="http://127.0.0.1:5001/",
        username="me",
        password_file=SECRET,
        ca_file="/etc/ca.pem",
        root=True,
        push=True,
        fresh="1h",
        on_gone="stop",
        reserve=7,
        keep_for="90d",
        keep_bytes="2 GiB",
        allow_redirects_to=["cdn.example.com", "10.0.0.7"],
    )

    assert found == UpstreamTerms(
        name="hub",
        authority="127.0.0.1:5001",
        plain_http=True,
        username="me",
        password_file=SECRET,
        ca_file="/etc/ca.pem",
        root=True,
        push=True,
        fresh_us=3_600_000_000,
        on_gone=OnGone.STOP,
        reserve=7,
        keep_for_us=90 * 86_400_000_000,
        keep_bytes=2 * 2**30,
        allow_redirects_to=frozenset({"cdn.example.com", "10.0.0.7"}),
    )
    assert terms(username="me", password_env=VARIABLE).password_env == VARIABLE
    assert terms(keep_bytes=1000).keep_bytes == 1000


def test_a_release_tag_is_not_expected_to_move() -> None:
    """Without a rule the move of a release tag is reported, and other tags are followed."""
    assert terms().decide(NODE, Tag("16.13.0")) == MoveTerms(OnMove.ALERT)
    assert terms().decide(NODE, Tag("16.13")) == MoveTerms(OnMove.FOLLOW)


def test_the_first_rule_that_matches_decides() -> None:
    """Globs are over upstream's own names; what a rule leaves out is as without it."""
    found = terms(
        rule=[
            {"repository": "library/*", "tag": "16*", "on_move": "hold", "cooldown": "7d", "first_seen": "hold"},
            {"repository": "library/**"},
        ]
    )

    assert found.decide(NODE, Tag("16.13.0")) == MoveTerms(OnMove.HOLD, FirstSeen.HOLD, 604_800_000_000)
    assert found.decide(NODE, Tag("18.1.0")) == MoveTerms(OnMove.ALERT)
    assert found.decide(Repository("other/node"), Tag("16")) == MoveTerms(OnMove.FOLLOW)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", "", "a text in quotes"),
        ("name", 5, "a text in quotes"),
        ("name", "docker.io:443", "without a port"),
        ("name", "a/b", "without a port"),
        ("name", "Docker.io", "in lower case"),
        ("url", "docker.io", "a scheme and a host"),
        ("url", "ftp://docker.io", "a scheme and a host"),
        ("url", "https://docker.io/path", "a scheme and a host"),
        ("url", "https://docker.io?x", "a scheme and a host"),
        ("url", "https://docker.io#x", "a scheme and a host"),
        ("url", "https://", "a scheme and a host"),
        ("url", "https://dock er.io", "a scheme and a host"),
        ("url", "https://döcker.io", "a scheme and a host"),
        ("url", "https://[docker.io", "a scheme and a host"),
        ("url", "https://docker.io:0", "a scheme and a host"),
        ("url", "https://docker.io:99999", "a scheme and a host"),
        ("ca_file", "a\nb", "a text in quotes"),
        ("root", "yes", "true or false"),
        ("fresh", "10", "a whole number and a unit"),
        ("on_gone", "panic", "one of serve, alert, stop"),
        ("reserve", -1, "a whole number from 0"),
        ("reserve", True, "a whole number from 0"),
        ("reserve", "1", "a whole number from 0"),
        ("reserve", 10_000_000, "a whole number from 0"),
        ("keep_bytes", "much", 'a size, such as "50 GiB"'),
        ("keep_bytes", 0, 'a size, such as "50 GiB"'),
        ("allow_redirects_to", "cdn", "a list of host names"),
        ("allow_redirects_to", ["cdn:443"], "a list of host names"),
        ("allow_redirects_to", [5], "a list of host names"),
        ("rule", {"tag": "*"}, "tables, each written as [[upstream.rule]]"),
        ("rule", ["x"], "tables, each written as [[upstream.rule]]"),
    ],
)
def test_a_value_that_can_not_be_is_named(key: str, value: object, expected: str) -> None:
    """With its table's number, what was found and what was expected."""
    message = refusal({**HUB, key: value})

    assert message.startswith(f"upstream 1: {key} is ")
    assert expected in message


def test_a_login_in_the_address_is_not_repeated() -> None:
    """What is in it may be a password."""
    message = refusal({**HUB, "url": "https://me:hunter2@docker.io"})

    assert "hunter2" not in message
    assert "password_file" in message


def test_an_unknown_key_is_named_without_its_value() -> None:
    """A password in the file itself is such a key."""
    message = refusal({**HUB, "password": "hunter2"})

    assert message.startswith('upstream 1: unknown key "password"; did you mean password_')
    assert "hunter2" not in message
    assert "did you mean" not in refusal({**HUB, "zzzzzz": 1})


@pytest.mark.parametrize(
    "login",
    [
        {"username": "me"},
        {"password_file": "/etc/secret"},
        {"username": "me", "password_file": "/etc/secret", "password_env": "HUB"},
        {"username": "me", "password_env": "HUB PASSWORD"},
    ],
)
def test_half_a_login_is_none(login: dict[str, str]) -> None:
    """A user without a password, or the other way round, or two passwords."""
    assert "password" in refusal({**HUB, **login})


def test_a_name_is_missed() -> None:
    """There is nothing that its images could be called by."""
    assert refusal({}) == 'upstream 1: name is missing; expected one such as "docker.io"'


def test_two_upstreams_must_differ() -> None:
    """They differ in name, in address, and in which answers at the root."""
    ghcr = {"name": "ghcr.io"}

    assert "name" in refusal(HUB, {**HUB, "url": "https://other.example"})
    assert "one url" in refusal(HUB, {**ghcr, "url": "https://docker.io"})
    assert "root" in refusal({**HUB, "root": True}, {**ghcr, "root": True})
    assert len(parse_upstreams([HUB, ghcr])) == 2


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"tags": "*"}, 'unknown key "tags"; did you mean tag?'),
        ({"tag": "a/b"}, "tag: "),
        ({"on_move": "run"}, "one of follow, alert, hold"),
        ({"first_seen": "run"}, "one of serve, hold"),
        ({"cooldown": "7d"}, "nothing is held"),
        ({"cooldown": "7d", "on_move": "alert"}, "nothing is held"),
        ({"cooldown": "7", "on_move": "hold"}, "a whole number and a unit"),
    ],
)
def test_a_rule_that_can_not_be_is_named(rule: dict[str, Any], expected: str) -> None:
    """With its own number behind its upstream's."""
    message = refusal({**HUB, "rule": [{}, rule]})

    assert message.startswith("upstream 1, rule 2: ")
    assert expected in message


def test_a_first_sight_can_be_held_for_a_while() -> None:
    """A cooldown ends that hold as well."""
    found = terms(rule=[{"first_seen": "hold", "cooldown": "1d"}])

    assert found.decide(NODE, Tag("16")) == MoveTerms(OnMove.FOLLOW, FirstSeen.HOLD, 86_400_000_000)


def test_there_is_an_end_to_tables() -> None:
    """Of upstreams and of their rules."""
    assert f"at most {MAX_UPSTREAMS}" in refusal(*[{"name": f"r{number}.io"} for number in range(MAX_UPSTREAMS + 1)])
    assert f"at most {MAX_RULES}" in refusal({**HUB, "rule": [{}] * (MAX_RULES + 1)})
