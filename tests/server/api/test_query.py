"""Queries are parsed strictly, and the Link of a page is the request for the next page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import BoltsealError
from boltseal.server.api.errors import UriTooLong
from boltseal.server.api.query import MAX_PAGE, Query, QueryInvalid, link_next


def test_values_are_decoded_once() -> None:
    """An escaped digest in a query is decoded once; a doubly escaped one is not a digest."""
    query = Query(b"digest=sha256%3Aab&x=%2541")

    assert query.value("digest") == "sha256:ab"
    assert query.value("x") == "%41"


def test_a_plus_is_a_plus() -> None:
    """A plus in a query is a plus, as in media types, and not a space."""
    assert Query(b"artifactType=application/vnd.x+json").value("artifactType") == "application/vnd.x+json"


def test_repeated_parameters_are_returned() -> None:
    """Repeated parameters are all returned, and equal ones count once."""
    query = Query(b"tag=1&tag=2,3&digest=a&digest=a")

    assert query.all("tag") == ["1", "2,3"]
    assert query.value("digest") == "a"


def test_two_values_where_one_is_expected_are_refused() -> None:
    """Two different values of a single-valued parameter are refused."""
    with pytest.raises(QueryInvalid):
        Query(b"digest=a&digest=b").value("digest")


@pytest.mark.parametrize("raw", [b"", b"&", b"&&", b"x", b"=", b"=1"])
def test_missing_parameters_are_skipped(raw: bytes) -> None:
    """Missing parameters and empty pairs are skipped."""
    assert Query(raw).value("n") is None


@pytest.mark.parametrize("raw", [b"n=%ff", b"last=%00", b"last=a%0a", b"n=\xc3\xbc", b"last=%0d%0aX: y"])
def test_control_characters_are_refused(raw: bytes) -> None:
    """Control characters in a query are refused, so that none gets into a header or a log."""
    with pytest.raises(QueryInvalid):
        Query(raw)


def test_a_query_too_long_is_refused() -> None:
    """A query that is too long gets 414 before it is parsed."""
    with pytest.raises(UriTooLong):
        Query(b"tag=" + b"a" * 20_000)


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (b"", MAX_PAGE),
        (b"n=0", 0),
        (b"n=7", 7),
        (b"n=007", 7),
        (b"n=999999999", MAX_PAGE),
        (b"n=" + b"9" * 5000, MAX_PAGE),
    ],
)
def test_page_sizes(raw: bytes, size: int) -> None:
    """`n` may be absent, zero, or a number, and is limited to the maximum."""
    assert Query(raw).page_size() == size


@pytest.mark.parametrize("raw", [b"n=", b"n=-1", b"n=abc", b"n=1.5", b"n=%D9%A3", b"n=1&n=2", b"n=0x1"])
def test_page_sizes_that_are_no_number_are_refused(raw: bytes) -> None:
    """An `n` that is no number is refused."""
    with pytest.raises(QueryInvalid):
        Query(raw).page_size()


def test_a_link_is_relative_and_encoded() -> None:
    """RFC 8288, as clients of registries read it."""
    link = link_next(
        "/v2/shop/app/referrers/sha256:ab", {"artifactType": "application/x+y", "n": "2", "last": "sha256:cd"}
    )

    assert (
        link == b'</v2/shop/app/referrers/sha256:ab?artifactType=application%2Fx%2By&n=2&last=sha256%3Acd>; rel="next"'
    )


@given(
    st.dictionaries(
        st.sampled_from(["n", "last", "artifactType"]),
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    )
)
def test_a_link_is_parsed_to_the_values_it_was_made_of(parameters: dict[str, str]) -> None:
    """A Link is parsed to the values that it was made of, whatever they are."""
    raw = link_next("/v2/_catalog", parameters)
    query = Query(raw[raw.index(b"?") + 1 : raw.rindex(b">")])

    assert {name: query.value(name) for name in parameters} == parameters


@given(st.binary(max_size=100))
def test_any_bytes_are_a_query_or_refused(raw: bytes) -> None:
    """Every query is parsed or refused with one of these errors."""
    sentence = "fine"
    try:
        Query(raw).page_size()
    except BoltsealError as error:
        sentence = error.message

    assert sentence
    assert sentence.isprintable()
