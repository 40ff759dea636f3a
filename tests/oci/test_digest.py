"""Digests: which texts are digests."""

import hashlib

import pytest

from boltseal.oci.digest import ALGORITHMS, Digest, DigestInvalid, hasher

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_digest_is_computed_as_by_hashlib(algorithm: str) -> None:
    """`of`, `str` and `parse` agree with hashlib for both algorithms."""
    digest = Digest.of(b"bolt", algorithm)

    assert digest.hex == hashlib.new(algorithm, b"bolt").hexdigest()
    assert str(digest) == f"{algorithm}:{digest.hex}"
    assert Digest.parse(str(digest)) == digest


def test_a_digest_returns_an_empty_hash_of_its_algorithm() -> None:
    """A digest's `hasher` starts an empty hash of its algorithm, for bytes that arrive in chunks."""
    running = Digest("sha512", "0" * 128).hasher()
    running.update(b"bo")
    running.update(b"lt")

    assert running.hexdigest() == hashlib.sha512(b"bolt").hexdigest()


def test_short_is_algorithm_and_twelve_digits() -> None:
    """The short form has the algorithm and twelve digits, enough to recognise a digest in a message."""
    assert Digest("sha256", EMPTY).short == "sha256:e3b0c44298fc"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a digest"),
        ("latest", "is not a digest"),
        (EMPTY, "is not a digest"),
        ("sha256:", "got 0 characters"),
        (f"sha256:{EMPTY[1:]}", "got 63 characters"),
        (f"sha256:{EMPTY}0", "got 65 characters"),
        (f"sha256:{EMPTY}\n", "got 65 characters"),
        (f"sha256:{EMPTY.upper()}", "lower-case"),
        (f"sha256:{'g' * 64}", "lower-case"),
        (f"sha256:{'٣' * 64}", "lower-case"),
        (f"sha256:../{EMPTY[3:]}", "lower-case"),
        (f"sha512:{EMPTY}", "128 lower-case"),
        (f"SHA256:{EMPTY}", "not supported"),
        (f"md5:{'0' * 32}", "not supported"),
        (f" sha256:{EMPTY}", "not supported"),
        (f":{EMPTY}", "not supported"),
        (f"sha256:sha256:{EMPTY}", "got 71 characters"),
        ("sha256:baddigeststring", "got 15 characters"),
    ],
)
def test_malformed_digests_are_refused_with_the_expected_form(text: str, says: str) -> None:
    """Only `sha256:` with 64 or `sha512:` with 128 lower-case hex digits is a digest."""
    with pytest.raises(DigestInvalid, match=says):
        Digest.parse(text)


def test_an_unknown_algorithm_has_no_hash() -> None:
    """A digest of an unknown algorithm can't be created."""
    with pytest.raises(DigestInvalid, match='"md5" is not supported; expected sha256 or sha512'):
        hasher("md5")


def test_a_digest_can_not_be_built_from_wrong_parts() -> None:
    """A digest's parts are checked however it is created, because a digest may become a path."""
    with pytest.raises(DigestInvalid):
        Digest("sha256", "../../etc/passwd")


def test_digests_sort_and_can_be_keys() -> None:
    """Digests can be sorted, and can be keys of caches and sets."""
    low, high = Digest("sha256", "0" * 64), Digest("sha256", "f" * 64)

    assert sorted([high, low]) == [low, high]
    assert {low: 1}[Digest.parse(str(low))] == 1


def test_a_digest_as_a_tag_has_at_most_64_digits() -> None:
    """A digest is truncated to 64 digits in a referrers tag, whatever its algorithm."""
    sha256, sha512 = Digest.of(b"image"), Digest.of(b"image", "sha512")

    assert sha256.as_tag == f"sha256-{sha256.hex}"
    assert sha512.as_tag == f"sha512-{sha512.hex[:64]}"
