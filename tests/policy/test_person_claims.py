"""The claims with which a person logs in: what they must be, and what is kept of them."""

from __future__ import annotations

import json

import pytest

from boltseal.policy.person_claims import MAX_DISPLAY_NAME, MAX_GROUP, PersonTerms, check_person
from boltseal.policy.pipeline_claims import ClaimsRefused

TERMS = PersonTerms("sso", "https://login.example.com", "boltseal")
NOW_S = 1_800_000_000
CLAIMS: dict[str, object] = {
    "iss": TERMS.issuer,
    "aud": "boltseal",
    "sub": "f3b1",
    "nonce": "n",
    "iat": NOW_S,
    "exp": NOW_S + 300,
    "preferred_username": "alice",
    "name": "Alice Example",
    "groups": ["dev", "ops"],
    "phone_number": "1",
}


def payload(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}).encode()


def test_what_the_registry_needs_is_kept() -> None:
    """Subject, user name with the provider's name, name for display, groups; nothing else."""
    found = check_person(payload(), TERMS, nonce="n", now_s=NOW_S)

    assert (found.issuer, found.subject, found.user_name) == (TERMS.issuer, "f3b1", "alice@sso")
    assert found.display_name == "Alice Example"
    assert found.groups == {"dev", "ops"}
    assert not hasattr(found, "phone_number")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iss": "https://evil.example.com"}, "the iss"),
        ({"iss": None}, "the iss of the ID token is missing"),
        ({"aud": "other"}, "the aud"),
        ({"aud": ["boltseal", "other"]}, "the aud"),
        ({"azp": "other"}, "the azp"),
        ({"exp": NOW_S - 40, "iat": NOW_S - 100}, "has expired"),
        ({"iat": NOW_S + 40}, "is not valid yet"),
        ({"nonce": "m"}, "is of another login"),
        ({"nonce": None}, "is of another login"),
        ({"nonce": 1}, "is of another login"),
        ({"sub": None}, "no valid sub"),
        ({"sub": "a\nb"}, "no valid sub"),
        ({"sub": ""}, "no valid sub"),
        ({"preferred_username": None}, "the claim preferred_username is missing"),
        ({"preferred_username": "a b"}, "the claim preferred_username is"),
        ({"preferred_username": "a" * 61}, "the claim preferred_username is"),
        ({"groups": "dev"}, "no list of at most"),
        ({"groups": ["g"] * 501}, "no list of at most"),
    ],
)
def test_other_claims_are_refused(changes: dict[str, object], message: str) -> None:
    """Each with a reason that its operator understands."""
    with pytest.raises(ClaimsRefused, match=message):
        check_person(payload(**changes), TERMS, nonce="n", now_s=NOW_S)


def test_an_audience_may_be_a_list_of_one_and_azp_ours() -> None:
    """A list of our client ID alone is the same as the client ID."""
    found = check_person(payload(aud=["boltseal"], azp="boltseal"), TERMS, nonce="n", now_s=NOW_S)

    assert found.user_name == "alice@sso"


def test_groups_that_cannot_be_shown_or_mean_all_people_are_left_out() -> None:
    """`*` in a grant is all people, so it is no group; texts of other kinds and lengths are none either."""
    groups = ["dev", "*", "", 1, "a\u202eb", "x" * (MAX_GROUP + 1)]

    assert check_person(payload(groups=groups), TERMS, nonce="n", now_s=NOW_S).groups == {"dev"}
    assert check_person(payload(groups=None), TERMS, nonce="n", now_s=NOW_S).groups == frozenset()


@pytest.mark.parametrize("name", ["a\r\nb", "a\u202eb", "", 1, "x" * (MAX_DISPLAY_NAME + 1), None])
def test_a_name_that_cannot_be_shown_is_replaced(name: object) -> None:
    """By the next claim, in the end by the user name."""
    found = check_person(payload(name=name), TERMS, nonce="n", now_s=NOW_S)
    other = check_person(
        payload(name=name, preferred_username=None, login="bob"),
        PersonTerms("sso", TERMS.issuer, "boltseal", "login"),
        nonce="n",
        now_s=NOW_S,
    )

    assert found.display_name == "alice"
    assert other.display_name == "bob@sso"
