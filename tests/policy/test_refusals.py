"""The detail of refusals: what becomes JSON, and what is parsed from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import SealedPut, http_answer
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.policy.refusals import DETAIL_KEYS, MEANINGS, DetailDocument, RefusalDetail, RefusalReason, Refused

ONE, TWO = Digest.of(b"one"), Digest.of(b"two", "sha512")
FULL = RefusalDetail(
    RefusalReason.SEALED,
    Tag("1.4.2"),
    ONE,
    TWO,
    1_763_972_941_123_456,
    "ci",
    (Tag("1.4.3"),),
    "rule 1 (mode sealed)",
    ("a signature by release.pub",),
    ("cosign sign --key release.key REGISTRY/shop/app@sha256:1",),
)
DOCUMENT = {
    "reason": "sealed",
    "tag": "1.4.2",
    "digest": str(ONE),
    "pushed": str(TWO),
    "since": "2025-11-24T08:29:01.123456Z",
    "by": "ci",
    "free": ["1.4.3"],
    "rule": "rule 1 (mode sealed)",
    "missing": ["a signature by release.pub"],
    "commands": ["cosign sign --key release.key REGISTRY/shop/app@sha256:1"],
}
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True).map(Tag)
digests = st.binary().map(Digest.of)
details = st.builds(
    RefusalDetail,
    st.sampled_from(RefusalReason),
    st.none() | tags,
    st.none() | digests,
    st.none() | digests,
    st.none() | st.integers(0, 4_000_000_000_000_000),
    st.none() | st.text(min_size=1),
    st.lists(tags, max_size=2).map(tuple),
    st.none() | st.text(min_size=1),
    st.lists(st.text(), max_size=2).map(tuple),
    st.lists(st.text(), max_size=2).map(tuple),
)


def as_json(detail: RefusalDetail) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(detail.document()))
    return found


def test_a_detail_has_the_keys_of_the_api() -> None:
    """The keys of a refusal's detail, their order and their forms are those of the documented API."""
    assert as_json(FULL) == DOCUMENT == FULL.as_json()
    assert list(DETAIL_KEYS) == list(DetailDocument.__struct_fields__) == list(DOCUMENT)


def test_keys_that_do_not_apply_are_absent() -> None:
    """A refusal's detail always has the reason, and the other keys only where they apply."""
    assert as_json(RefusalDetail(RefusalReason.QUOTA)) == {"reason": "quota"}


@given(details)
def test_a_detail_is_parsed_from_its_own_json(detail: RefusalDetail) -> None:
    """A client parses the same facts from a detail that the server wrote."""
    assert RefusalDetail.parse(as_json(detail)) == detail


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        7,
        [],
        {},
        {"Tag": "1.4.2"},
        {"reason": "a reason of a later version"},
        {**DOCUMENT, "tag": "not a tag"},
        {**DOCUMENT, "tag": 1},
        {**DOCUMENT, "digest": "sha256:ab"},
        {**DOCUMENT, "pushed": "md5:00"},
        {**DOCUMENT, "since": "yesterday"},
        {**DOCUMENT, "since": "2025-99-24T08:29:01Z"},
        {**DOCUMENT, "free": ["../.."]},
        {**DOCUMENT, "free": "1.4.3"},
    ],
)
def test_another_detail_is_none(value: object) -> None:
    """A detail of another form, as other registries have it, is parsed as none."""
    assert RefusalDetail.parse(value) is None


def test_a_key_of_a_later_version_is_ignored() -> None:
    """A client ignores a key of the detail that a later version added."""
    assert RefusalDetail.parse({**DOCUMENT, "more": 1}) == FULL


def test_without_content_nothing_of_the_repository_is_left() -> None:
    """A caller who may not pull sees the reason and the digest that the caller has sent."""
    assert as_json(FULL.without_content()) == {"reason": "sealed", "pushed": str(TWO)}


def test_every_reason_has_a_meaning() -> None:
    """Every reason of a refusal has a documented meaning."""
    assert set(MEANINGS) == set(RefusalReason)


class Sealed(Refused, SealedPut):
    """A refusal of a kind."""


def test_an_error_of_a_kind_carries_the_facts() -> None:
    """The kind decides status and exit code, the detail is beside it; other errors have no facts."""
    error = Sealed("tag 1.4.2 is sealed", FULL)

    assert (error.message, str(error), error.refusal_facts()) == ("tag 1.4.2 is sealed", error.message, DOCUMENT)
    assert http_answer(error).status == 409
    assert SealedPut("sealed").refusal_facts() is None
