"""The `[[upstream]]` tables: their meaning, and the error for each mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from boltseal.oci.reference import Repository, Tag
from boltseal.policy.tag_expectations import TagExpectations, parse_tags
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
from tests.signatures.signers import Signer

HUB: dict[str, Any] = {"name": "docker.io"}
SECRET = "/etc/secret"  # noqa: S105 - the name of a setting
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
    """An upstream needs only a name: by default HTTPS at that name, ten minutes, and deleted tags are served and
    reported."""
    found = terms()

    assert found == UpstreamTerms(name="docker.io", authority="docker.io")
    assert (found.plain_http, found.fresh_us, found.on_gone, found.keep_bytes) == (
        False,
        600_000_000,
        OnGone.ALERT,
        None,
    )


def test_every_key_is_parsed() -> None:
    """All keys of an upstream are parsed."""
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
    """Without a rule, the move of a release tag is reported and other tags are followed."""
    assert terms().decide(NODE, Tag("16.13.0")) == MoveTerms(OnMove.ALERT)
    assert terms().decide(NODE, Tag("16.13")) == MoveTerms(OnMove.FOLLOW)


def test_a_table_of_tags_decides_where_no_rule_does() -> None:
    """A release that is rebuilt by custom, by `[[tags]]`, is followed without an alarm; a rule still decides first."""
    rules = parse_tags([{"repository": "docker.io/library/**", "expect": "rebuilt"}])
    found = replace(terms(), tags=TagExpectations(rules))
    ruled = replace(found, rules=terms(rule=[{"on_move": "hold"}]).rules)

    assert found.decide(NODE, Tag("16.13.0")) == MoveTerms(OnMove.FOLLOW)
    assert ruled.decide(NODE, Tag("16.13.0")).on_move is OnMove.HOLD


def test_the_first_rule_that_matches_decides() -> None:
    """Rules use the upstream's own names; the first match decides, and keys it lacks have their defaults."""
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
def test_an_invalid_value_is_reported(key: str, value: object, expected: str) -> None:
    """An invalid value is an error with the table's number, what was got and what was expected."""
    message = refusal({**HUB, key: value})

    assert message.startswith(f"upstream 1: {key} is ")
    assert expected in message


def test_a_login_in_the_address_is_not_repeated() -> None:
    """A URL with a login, which may be a password, is not repeated in the error."""
    message = refusal({**HUB, "url": "https://me:hunter2@docker.io"})

    assert "hunter2" not in message
    assert "password_file" in message


def test_an_unknown_key_is_named_without_its_value() -> None:
    """An unknown key is reported without its value, which may be a password."""
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
def test_an_incomplete_login_is_refused(login: dict[str, str]) -> None:
    """A user without a password, a password without a user, and two passwords are each refused."""
    assert "password" in refusal({**HUB, **login})


def test_a_missing_name_is_refused() -> None:
    """An upstream without a name is refused."""
    assert refusal({}) == 'upstream 1: name is missing; expected one such as "docker.io"'


def test_two_upstreams_must_differ() -> None:
    """Two upstreams with one name, one address, or both at the root are refused."""
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
def test_an_invalid_rule_is_reported(rule: dict[str, Any], expected: str) -> None:
    """An invalid rule is an error with its own number and its upstream's."""
    message = refusal({**HUB, "rule": [{}, rule]})

    assert message.startswith("upstream 1, rule 2: ")
    assert expected in message


def test_a_first_observation_can_be_held_for_a_while() -> None:
    """`first_seen = "hold"` may have a cooldown, which ends the hold."""
    found = terms(rule=[{"first_seen": "hold", "cooldown": "1d"}])

    assert found.decide(NODE, Tag("16")) == MoveTerms(OnMove.FOLLOW, FirstSeen.HOLD, 86_400_000_000)


def test_the_number_of_tables_is_limited() -> None:
    """The numbers of upstreams and of their rules are limited."""
    assert f"at most {MAX_UPSTREAMS}" in refusal(*[{"name": f"r{number}.io"} for number in range(MAX_UPSTREAMS + 1)])
    assert f"at most {MAX_RULES}" in refusal({**HUB, "rule": [{}] * (MAX_RULES + 1)})


def test_a_rule_may_require_evidence() -> None:
    """The terms of a tag have the requirement; tags of signature tools are not of such a rule."""
    vendor = Signer.on_p256()
    table = {**HUB, "rule": [{"repository": "acme/**", "require": [{"key": "keys/vendor.pub"}]}]}
    (found,) = parse_upstreams([table], lambda file: vendor.pem)
    acme = Repository("acme/app")
    (required,) = found.decide(acme, Tag("1.4.2")).require

    assert str(required) == f"a signature by vendor.pub (sha256:{vendor.key.fingerprint[:12]})"
    assert found.decide(acme, Tag(f"sha256-{'0' * 64}.sig")).require == ()
    assert found.decide(NODE, Tag("1.4.2")).require == ()


def test_a_wrong_requirement_names_its_rule() -> None:
    """The number of the upstream and of the rule, and what is wrong."""
    message = refusal({**HUB, "rule": [{}, {"require": [{"keys": "a.pub"}]}]})

    assert message.startswith("upstream 1, rule 2: require[0]: unknown key")
