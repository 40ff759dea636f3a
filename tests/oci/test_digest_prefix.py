"""A prefix of a digest, as users type it."""

from __future__ import annotations

import pytest

from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.digest_prefix import DigestAmbiguous, DigestPrefix

FIRST = Digest("sha256", "8c5a9f5" + "1" * 57)
SECOND = Digest("sha256", "8c5a9f5" + "2" * 57)
LONG = Digest("sha512", "8c5a9f5" + "3" * 121)


@pytest.mark.parametrize("text", ["8c5a9f51", "sha256:8c5a9f51", str(FIRST), FIRST.hex, FIRST.short])
def test_a_prefix_selects_the_only_digest_that_begins_so(text: str) -> None:
    """A prefix, with or without the algorithm, selects the only digest that begins with it."""
    prefix = DigestPrefix.parse(text)

    assert prefix.choose([FIRST, SECOND, LONG, FIRST]) == FIRST
    assert str(prefix) == text


def test_a_prefix_of_several_digests_is_refused_with_all_of_them() -> None:
    """A prefix of several digests is refused with a list of them."""
    with pytest.raises(
        DigestAmbiguous, match=f"8c5a9f5 fits 2 digests; write more digits of one of {FIRST}, {SECOND}$"
    ):
        DigestPrefix.parse("8c5a9f5").choose([FIRST, SECOND])


def test_the_list_of_candidates_is_short() -> None:
    """Of thousands of matching digests, a few are listed."""
    many = [Digest("sha256", f"8c5a9f5{number:057d}") for number in range(9)]

    with pytest.raises(DigestAmbiguous, match=r"fits 9 digests.* and 4 more$"):
        DigestPrefix.parse("8c5a9f5").choose(many)


def test_the_algorithm_decides_where_it_is_typed() -> None:
    """If the algorithm is typed, only digests of that algorithm match."""
    assert DigestPrefix.parse("sha512:8c5a9f5").choose([FIRST, LONG]) == LONG
    assert DigestPrefix.parse("8c5a9f53").choose([FIRST, LONG]) == LONG
    assert DigestPrefix.parse("sha512:8c5a9f5").choose([FIRST]) is None


@pytest.mark.parametrize(
    "text", ["", "8c5a9f", "8C5A9F5", "sha256:8c5a9f", "sha1:8c5a9f5", "md5", f"sha256:{'a' * 65}", "latest", "a" * 129]
)
def test_other_text_is_no_prefix(text: str) -> None:
    """Fewer than seven digits, or other text, is refused as a prefix."""
    with pytest.raises(DigestInvalid, match="at least 7 lower-case hex digits"):
        DigestPrefix.parse(text)
