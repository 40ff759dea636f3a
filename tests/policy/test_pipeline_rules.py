"""Rules for pipelines: which claims they compare, which tags they allow, and which tables are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.reference import Tag
from boltseal.policy.grants import NOTHING, Action
from boltseal.policy.pipeline_claims import PipelineClaims
from boltseal.policy.pipeline_rules import (
    MAX_ISSUERS,
    MAX_RULES,
    IssuerInvalid,
    IssuerTerms,
    TagLimits,
    parse_issuers,
)

RELEASE: Mapping[str, object] = {
    "claims": {"repository_id": "123", "repository_owner_id": "9", "event_name": "push"},
    "claims_glob": {"workflow_ref": "acme/shop/.github/workflows/release.yml@refs/tags/*"},
    "repository": "acme/shop",
    "actions": ["pull", "push"],
    "tag": "{git_tag}",
    "strip_prefix": "v",
    "also": ["{git_tag_minor}", "latest"],
}
TOKEN = {
    "repository_id": "123",
    "repository_owner_id": "9",
    "event_name": "push",
    "workflow_ref": "acme/shop/.github/workflows/release.yml@refs/tags/v1.4.2",
    "ref": "refs/tags/v1.4.2",
    "ref_type": "tag",
}


def terms(*rules: Mapping[str, object], **more: object) -> IssuerTerms:
    """Return an issuer with these rules."""
    table = {"name": "github", "url": "https://ci.example.com", "audience": "us", "rule": list(rules or (RELEASE,))}
    return parse_issuers([table | more])[0]


def claims(**changes: str) -> PipelineClaims:
    """Return the claims of a release, with some changed; "" removes one."""
    texts = {name: text for name, text in (TOKEN | changes).items() if text}
    return PipelineClaims("https://ci.example.com", "sub", "id", 0, texts)


def test_a_release_may_push_its_tag_and_the_mutable_ones() -> None:
    """The tag without its prefix, and the tags of `also`, may be pushed."""
    rights = terms().rights(claims(), "acme/shop")

    assert rights.actions == {Action.PULL, Action.PUSH}
    assert rights.limits == TagLimits(frozenset({"1.4.2"}), frozenset({"1.4", "latest"}))
    assert terms().matches(claims())
    assert [str(glob) for glob in terms().pulled(claims())] == ["acme/shop"]


@pytest.mark.parametrize(
    "changes",
    [
        {"repository_id": "124"},
        {"repository_id": "1234"},
        {"repository_id": ""},
        {"repository_owner_id": "10"},
        {"event_name": "pull_request"},
        {"event_name": "pull_request_target"},
        {"workflow_ref": ""},
        {"workflow_ref": "acme/shop/.github/workflows/other.yml@refs/tags/v1.4.2"},
        {"workflow_ref": "evil/acme/shop/.github/workflows/release.yml@refs/tags/v1.4.2"},
        {"workflow_ref": "acme/shop/.github/workflows/release.yml@refs/tags/a/b"},
        {"workflow_ref": "acme/shop/.github/workflows/release.yml@refs/heads/main"},
        {"ref_type": "branch"},
        {"ref": "refs/heads/v1.4.2"},
        {"ref": "refs/tags/1.4.2"},  # without the prefix
        {"ref": "refs/tags/v"},
        {"ref": "refs/tags/v1.4/2"},
        {"ref": "refs/tags/v*"},
        {"ref": "refs/tags/v?.[0-9].2"},
        {"ref": "refs/tags/v{git_tag}"},
        {"ref": "refs/tags/v" + "1" * 129},
        {"ref": "refs/tags/v1.4.2 "},
        {"ref": "refs/tags/vé"},
    ],
)
def test_a_token_with_another_claim_has_no_right(changes: dict[str, str]) -> None:
    """One claim that differs or lacks, and a git tag that is no valid tag, give no right at all."""
    found = claims(**changes)

    assert terms().rights(found, "acme/shop").actions == NOTHING
    assert not terms().matches(found)
    assert terms().pulled(found) == ()


def test_a_rule_gives_nothing_in_another_repository() -> None:
    """The rights end with the rule's glob over repositories."""
    assert terms().rights(claims(), "acme/shop2").actions == NOTHING
    assert terms().rights(claims(), "acme/shop/x").actions == NOTHING


def test_a_pre_release_moves_no_minor_tag() -> None:
    """`{git_tag_minor}` is a tag only for a whole release."""
    limits = terms().rights(claims(ref="refs/tags/v2.0.0-rc1"), "acme/shop").limits

    assert limits == TagLimits(frozenset({"2.0.0-rc1"}), frozenset({"latest"}))


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", "-more"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "SHA256"])
def test_a_git_tag_allows_no_tag_about_a_digest(algorithm: str, suffix: str) -> None:
    """Tags of signature tools and referrers say something about the image of their name, which a git tag must not choose."""
    name = f"{algorithm}-{'0' * 64}{suffix}"

    assert not terms().matches(claims(ref=f"refs/tags/v{name}"))
    assert terms().rights(claims(ref=f"refs/tags/v{name}"), "acme/shop").actions == frozenset()


def test_rules_add_up() -> None:
    """A rule without `tag` allows every tag, whatever others allow; two with `tag` allow both."""
    nightly = {"claims": {"repository_id": "123"}, "repository": "acme/**", "actions": ["push"], "tag": "nightly"}
    delete = {"claims": {"repository_id": "123"}, "repository": "acme/**", "actions": ["delete"]}

    both = terms(RELEASE, nightly, delete).rights(claims(), "acme/shop")
    free = terms(RELEASE, {**nightly, "tag": "x"}, {**delete, "actions": ["push"]}).rights(claims(), "acme/shop")

    assert both.actions == {Action.PULL, Action.PUSH, Action.DELETE}
    assert both.limits is not None
    assert both.limits.tags == {"1.4.2", "nightly"}
    assert free.limits is None


def test_a_rule_may_allow_pull_request_target() -> None:
    """Only a rule that says so applies to `pull_request_target`."""
    rule = {"claims": {"repository_id": 123}, "repository": "pr/**", "actions": ["push"]}
    token = claims(event_name="pull_request_target")

    assert not terms(rule).matches(token)
    assert terms({**rule, "allow_pull_request_target": True}).matches(token)


def test_values_of_other_types_are_compared_as_texts() -> None:
    """A whole number and a boolean in the configuration equal the claim's text."""
    rule = {"claims": {"project_id": 22, "ref_protected": True}, "repository": "a", "actions": ["push"]}

    assert terms(rule).matches(claims(project_id="22", ref_protected="true"))
    assert not terms(rule).matches(claims(project_id="22", ref_protected="false"))


def test_settings_of_an_issuer() -> None:
    """Durations, hosts and the certificate authority are read."""
    found = terms(offline_for="2h", allow_keys_from=["idp.internal"], ca_file="/etc/ca.pem")

    assert (found.offline_us, found.allow_keys_from, found.ca_file) == (
        7_200_000_000,
        frozenset({"idp.internal"}),
        "/etc/ca.pem",
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"nane": "x"}, "unknown key .*did you mean name"),
        ({"zzzzzz": "x"}, "unknown key"),
        ({"name": "Git Hub"}, "lower-case letters"),
        ({"name": ""}, "a name such as github"),
        ({"name": 7}, "a name such as github"),
        ({"url": "http://ci.example.com"}, "https address"),
        ({"url": "https://user@ci.example.com"}, "https address"),
        ({"url": "https://ci.example.com?x"}, "https address"),
        ({"url": "https://ci.example.com:99999"}, "https address"),
        ({"url": "https://"}, "https address"),
        ({"url": "file:///etc/passwd"}, "https address"),
        ({"url": "https://cí.example.com"}, "https address"),
        ({"audience": ""}, "audience is"),
        ({"allow_keys_from": ["a:80"]}, "host names without ports"),
        ({"allow_keys_from": "a"}, "list of host names"),
        ({"offline_for": "soon"}, "offline_for is"),
        ({"offline_for": "13h"}, "at most 12h"),
        ({"offline_for": "0s"}, "more than 0s"),
        ({"rule": []}, "auth.issuer.rule"),
        ({"rule": "x"}, "auth.issuer.rule"),
        ({"rule": [RELEASE] * (MAX_RULES + 1)}, f"at most {MAX_RULES}"),
    ],
)
def test_an_invalid_issuer_is_refused(more: dict[str, object], reason: str) -> None:
    """A wrong value is an error of one line."""
    with pytest.raises(IssuerInvalid, match=reason):
        terms(**more)


@pytest.mark.parametrize("missing", ["name", "url", "audience", "rule"])
def test_a_missing_key_is_named(missing: str) -> None:
    """Each key that has no default must be there."""
    table = {"name": "a", "url": "https://a.example.com", "audience": "us", "rule": [RELEASE]}
    del table[missing]

    with pytest.raises(IssuerInvalid, match=f"{missing} is missing"):
        parse_issuers([table])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"claims": {}}, "identifies the pipeline"),
        ({"claims": {"repository": "acme/shop", "repository_owner": "acme"}}, "identifies the pipeline"),
        ({"claims": {"sub": "repo:acme/shop:environment:release"}}, "identifies the pipeline"),
        ({"claims": {"sub": "project_path:acme/shop:ref_type:tag:ref:v1"}}, "identifies the pipeline"),
        ({"claims": {"ref_type": "tag", "environment": "release"}}, "identifies the pipeline"),
        ({"claims": {}, "claims_glob": {"repository_id": "12*"}}, "identifies the pipeline"),
        ({"claims": {"actor_id": "7", "event_name": "issues"}}, "identifies the pipeline"),
        ({"claims": {"user_id": "7", "runner_id": "1", "check_run_id": "2"}}, "identifies the pipeline"),
        ({"claims": {"sub": "environment:release"}}, "identifies the pipeline"),
        ({"claims": {"sub": "repository_owner:acme:environment:release"}}, "identifies the pipeline"),
        ({"claims": {"sub": "actor_id:7"}}, "identifies the pipeline"),
        ({"claims": "x"}, "claims and values"),
        ({"claims": {"repository_id": ["1"]}}, "claims and values"),
        ({"claims_glob": {"ref": "a[b"}}, "never closes"),
        ({"claims_glob": {"ref": "é"}}, "printable ASCII"),
        ({"repository": "Acme"}, "lower-case"),
        ({"repository": None}, "a glob over repositories"),
        ({"actions": []}, "a list of delete, pull, push"),
        ({"actions": ["admin"]}, "a list of delete, pull, push"),
        ({"actions": ["push", "delete"]}, "not deletes"),
        ({"tag": "{tag}"}, "expected {git_tag}"),
        ({"tag": "a b"}, "no valid tag"),
        ({"tag": "v*"}, "no valid tag"),
        ({"also": ["{git_tag"]}, "no valid tag"),
        ({"also": "latest"}, "a list of tags"),
        ({"allow_pull_request_target": "yes"}, "true or false"),
        ({"tags": "x"}, "unknown key"),
    ],
)
def test_an_invalid_rule_is_refused(more: dict[str, object], reason: str) -> None:
    """A rule that could match other organisations, or that can match nothing, is an error of one line."""
    with pytest.raises(IssuerInvalid, match=reason):
        terms({**RELEASE, **more})


@pytest.mark.parametrize("key", ["also", "strip_prefix"])
def test_settings_about_the_tag_need_the_tag(key: str) -> None:
    """Without `tag` every tag may be pushed, so these would say nothing."""
    rule = {
        name: value for name, value in RELEASE.items() if name not in {"tag", "also", "strip_prefix"} or name == key
    }

    with pytest.raises(IssuerInvalid, match="need tag"):
        terms(rule)


def test_a_literal_subject_identifies_a_pipeline() -> None:
    """By OpenID Connect an issuer never gives a subject to another; only those of names are not enough."""
    for subject in ("job-7", "repository_id:123:environment:release"):
        assert terms({"claims": {"sub": subject}, "repository": "a", "actions": ["push"]}).rules


def test_loopback_needs_no_encryption() -> None:
    """An issuer on this machine may be reached without TLS."""
    assert terms(url="http://127.0.0.1:8080/realm").url == "http://127.0.0.1:8080/realm"


@pytest.mark.parametrize("key", ["name", "url"])
def test_two_issuers_are_different(key: str) -> None:
    """A name and an address belong to one table."""
    first: dict[str, Any] = {"name": "a", "url": "https://a.example.com", "audience": "us", "rule": [RELEASE]}
    second = {"name": "b", "url": "https://b.example.com", "audience": "us", "rule": [RELEASE]} | {key: first[key]}

    with pytest.raises(IssuerInvalid, match="issuer 2"):
        parse_issuers([first, second])


def test_several_issuers_are_read() -> None:
    """Each issuer has its own table."""
    table = {"name": "a", "url": "https://a.example.com", "audience": "us", "rule": [RELEASE]}

    found = parse_issuers([table, {**table, "name": "b", "url": "https://b.example.com"}])

    assert [each.name for each in found] == ["a", "b"]


def test_the_number_of_issuers_is_bounded() -> None:
    """More issuers than the limit are refused."""
    with pytest.raises(IssuerInvalid, match=f"at most {MAX_ISSUERS}"):
        parse_issuers([{}] * (MAX_ISSUERS + 1))


@given(st.text(max_size=140) | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_a_git_tag_allows_exactly_itself(name: str) -> None:
    """Whatever a git tag is called, at most the tag of that very name may be pushed."""
    limits = (
        terms({**RELEASE, "strip_prefix": "", "also": []}).rights(claims(ref=f"refs/tags/{name}"), "acme/shop").limits
    )

    assert limits is None or limits.tags == {name}
    if limits is not None:
        assert Tag(name) == name


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_literal_claim_equals_itself_alone(wanted: str, got: str) -> None:
    """A value in `claims` is compared as it is, whatever characters it has."""
    rule = {"claims": {"repository_id": wanted}, "repository": "a", "actions": ["push"]}

    assert terms(rule).matches(claims(repository_id=got)) == (wanted == got != "")
