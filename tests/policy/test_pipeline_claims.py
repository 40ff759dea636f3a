"""The claims of ID tokens: checked once, parsed into texts, and what of them the ledger shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.policy.pipeline_claims import (
    CLOCK_SKEW_S,
    MAX_CLAIMS,
    MAX_LIFE_S,
    ClaimsRefused,
    PipelineClaims,
    check_claims,
    minor_of,
    pipeline_text,
    shown_pipeline,
)

NOW_S = 1_800_000_000
ISSUER = "https://ci.example.com"
AUDIENCE = "https://registry.example.com"
GITHUB: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "repo:acme/shop:ref:refs/tags/v1.4.2",
    "jti": "a1",
    "iat": NOW_S,
    "nbf": NOW_S,
    "exp": NOW_S + 300,
    "repository": "acme/shop",
    "repository_id": "123",
    "repository_owner_id": "9",
    "ref": "refs/tags/v1.4.2",
    "ref_type": "tag",
    "ref_protected": "true",
    "sha": "3f2a" * 10,
    "run_id": "8213",
    "event_name": "push",
}


def check(**changes: object) -> PipelineClaims:
    """Check GitHub's claims with some changed; None removes one."""
    claims = {name: value for name, value in (GITHUB | changes).items() if value is not None}
    return check_claims(json.dumps(claims).encode(), issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)


def test_valid_claims_are_texts_by_name() -> None:
    """Strings, whole numbers and booleans are texts that rules compare; the token's own claims are not among them."""
    claims = check(project_id=22, ref_protected=True)

    assert claims.subject == GITHUB["sub"]
    assert (claims.id, claims.ends_s) == ("a1", NOW_S + 300)
    assert claims.texts["project_id"] == "22"
    assert claims.texts["ref_protected"] == "true"
    assert not {"iss", "aud", "exp", "nbf", "iat", "jti"} & claims.texts.keys()


@pytest.mark.parametrize("value", [["a"], {"a": 1}, 1.5, "x" * 513, "a\nb", "a\u202eb", ""])
def test_a_claim_that_cannot_be_compared_is_left_out(value: object) -> None:
    """Lists, objects, fractions, and texts that are too long or not printable match no rule."""
    assert "custom" not in check(custom=value).texts


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://ci.example.com/"}, "the iss of the ID token is"),
        ({"iss": None}, "the iss of the ID token is missing"),
        ({"aud": "https://other.example.com"}, "the aud of the ID token is"),
        ({"aud": [AUDIENCE, "https://other.example.com"]}, "the aud of the ID token is"),
        ({"aud": []}, "the aud of the ID token is"),
        ({"aud": None}, "the aud of the ID token is missing"),
        ({"exp": NOW_S - CLOCK_SKEW_S}, "has expired"),
        ({"exp": NOW_S + 300.5}, "no valid times"),
        ({"exp": True}, "no valid times"),
        ({"exp": None}, "no valid times"),
        ({"iat": None}, "no valid times"),
        ({"nbf": "now"}, "no valid times"),
        ({"nbf": NOW_S + CLOCK_SKEW_S + 1}, "not valid yet"),
        ({"iat": NOW_S + CLOCK_SKEW_S + 1}, "not valid yet"),
        ({"exp": NOW_S + MAX_LIFE_S + 1}, "expected at most"),
        ({"exp": NOW_S - 1, "iat": NOW_S, "nbf": NOW_S}, "expected at most"),
        ({"sub": None}, "no valid sub"),
        ({"sub": ""}, "no valid sub"),
        ({"sub": "a\u202eb"}, "no valid sub"),
        ({"sub": "x" * 256}, "no valid sub"),
        ({"jti": None}, "no valid jti"),
        ({"jti": 7}, "no valid jti"),
    ],
)
def test_invalid_claims_are_refused(changes: dict[str, object], reason: str) -> None:
    """Another issuer or audience, invalid times, and a missing subject or identifier are refused."""
    with pytest.raises(ClaimsRefused, match=reason):
        check(**changes)


def test_clocks_may_differ_a_little() -> None:
    """A token that ended or begins within the clock skew is accepted."""
    assert check(exp=NOW_S - CLOCK_SKEW_S + 1, iat=NOW_S - 60, nbf=None).id == "a1"
    assert check(iat=NOW_S + CLOCK_SKEW_S, nbf=NOW_S + CLOCK_SKEW_S).id == "a1"


def test_an_audience_in_a_list_of_one_is_accepted() -> None:
    """A list with our audience alone is as good as the text."""
    assert check(aud=[AUDIENCE]).id == "a1"


@pytest.mark.parametrize("payload", [b"", b"[]", b'"x"', b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    """Bytes that are no JSON object are refused."""
    with pytest.raises(ClaimsRefused, match="not a JSON object"):
        check_claims(payload, issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)


def test_too_many_claims_are_refused() -> None:
    """The number of claims is bounded."""
    with pytest.raises(ClaimsRefused, match=f"at most {MAX_CLAIMS}"):
        check(**{f"c{number}": "x" for number in range(MAX_CLAIMS)})


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({}, "v1.4.2"),
        ({"ref": "v1.4.2", "ref_path": "refs/tags/v1.4.2"}, "v1.4.2"),  # GitLab
        ({"ref_type": "branch"}, None),
        ({"ref_type": None}, None),
        ({"ref": "refs/heads/v1.4.2"}, None),
        ({"ref": "v1.4.2"}, None),
        ({"ref": "refs/tags/"}, None),
        ({"ref": None}, None),
        ({"ref_path": "refs/heads/main"}, None),
        ({"ref": "refs/tags/refs/tags/x"}, "refs/tags/x"),
    ],
)
def test_a_git_tag_needs_both_claims(changes: dict[str, object], tag: str | None) -> None:
    """A pipeline runs for a git tag only if `ref_type` and the full ref say so."""
    assert check(**changes).git_tag == tag


def test_the_ledger_shows_five_claims_at_most() -> None:
    """An entry has issuer, subject, repository, commit and run, and no other claim."""
    assert check(email="a@example.com").ledger_extra == {
        "ci.issuer": ISSUER,
        "ci.subject": GITHUB["sub"],
        "ci.repository": "acme/shop",
        "ci.commit": GITHUB["sha"],
        "ci.run": "8213",
    }


def test_the_ledger_shows_no_long_claim_and_no_invalid_commit() -> None:
    """What is too long for readers, and a commit that is none, are left out."""
    extra = check(repository="x" * 300, sha="main; rm -rf /", run_id=None).ledger_extra

    assert extra == {"ci.issuer": ISSUER, "ci.subject": GITHUB["sub"]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, f"run 8213 of acme/shop at commit {GITHUB['sha']}"),
        ({"sha": None}, "run 8213 of acme/shop"),
        ({"run_id": None, "repository": None, "sha": None, "sub": "job-7"}, "a pipeline of job-7"),
        ({"run_id": None, "pipeline_id": "5", "repository": None, "project_path": "a/b"}, "run 5 of a/b"),
    ],
)
def test_a_sentence_says_which_run_it_was(changes: dict[str, object], text: str) -> None:
    """Readers see run, repository and commit, as far as the token had them."""
    assert pipeline_text(check(**changes).ledger_extra).startswith(text)


def test_an_entry_without_pipeline_has_no_sentence() -> None:
    """The entry of a user's push says nothing about pipelines."""
    assert pipeline_text({"mode": "sealed"}) == ""
    assert shown_pipeline({"mode": "sealed", "ci.other": "x"}) == {}


def test_fields_for_programs_are_the_keys_without_prefix() -> None:
    """JSON output has what the entry has."""
    assert shown_pipeline({"mode": "sealed", "ci.issuer": ISSUER, "ci.run": "5"}) == {"issuer": ISSUER, "run": "5"}
    assert pipeline_text({"ci.issuer": ISSUER, "ci.run": "5"}) == f"run 5 of {ISSUER}"


@pytest.mark.parametrize(
    ("version", "minor"),
    [("1.4.2", "1.4"), ("0.0.0", "0.0"), ("1.4", None), ("1.4.2-rc1", None), ("01.4.2", None), ("1.4.2.3", None)],
)
def test_the_minor_version_is_that_of_a_whole_release(version: str, minor: str | None) -> None:
    """Only a version of three numbers has a minor version: a pre-release moves nothing."""
    assert minor_of(version) == minor


@given(st.binary(max_size=200))
def test_any_payload_is_refused_in_words(payload: bytes) -> None:
    """Whatever the bytes are, the answer is a refusal and never another error."""
    with pytest.raises(ClaimsRefused):
        check_claims(payload, issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)


@given(st.dictionaries(st.text(max_size=20), st.none() | st.booleans() | st.integers() | st.text(max_size=40)))
def test_every_text_of_accepted_claims_is_bounded_and_printable(more: dict[str, Any]) -> None:
    """What rules and the ledger see of accepted claims is printable and short."""
    try:
        claims = check_claims(json.dumps(GITHUB | more).encode(), issuer=ISSUER, audience=AUDIENCE, now_s=NOW_S)
    except ClaimsRefused:
        return

    assert all(text.isprintable() and 0 < len(text) <= 512 for text in claims.texts.values())
    assert all(len(text) <= 255 for text in claims.ledger_extra.values())
