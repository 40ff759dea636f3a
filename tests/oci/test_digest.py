"""What is a digest, and what is not."""

import hashlib

import pytest

from boltseal.oci.digest import ALGORITHMS, Digest, DigestInvalid, hasher

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_digest_of_bytes_is_what_hashlib_says_and_reads_back(algorithm: str) -> None:
    """`of`, `str` and `parse` agree with hashlib, for both algorithms."""
    digest = Digest.of(b"bolt", algorithm)

    assert digest.hex == hashlib.new(algorithm, b"bolt").hexdigest()
    assert str(digest) == f"{algorithm}:{digest.hex}"
    assert Digest.parse(str(digest)) == digest


def test_a_digest_gives_an_empty_hash_of_its_own_algorithm() -> None:
    """Bytes that arrive in pieces are hashed with the algorithm the client named."""
    running = Digest("sha512", "0" * 128).hasher()
    running.update(b"bo")
    running.update(b"lt")

    assert running.hexdigest() == hashlib.sha512(b"bolt").hexdigest()


def test_short_is_algorithm_and_twelve_digits() -> None:
    """A message shows enough of a digest to recognise it."""
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
def test_what_is_not_a_digest_is_refused_with_what_it_should_be(text: str, says: str) -> None:
    """Only `sha256:` with 64 or `sha512:` with 128 lower-case hex digits is a digest."""
    with pytest.raises(DigestInvalid, match=says):
        Digest.parse(text)


def test_an_unknown_algorithm_has_no_hash() -> None:
    """No digest is ever made with an algorithm that clients need not know."""
    with pytest.raises(DigestInvalid, match='"md5" is not supported; expected sha256 or sha512'):
        hasher("md5")


def test_a_digest_can_not_be_built_wrong_from_parts() -> None:
    """A digest may become a path, so its parts are checked however it is made."""
    with pytest.raises(DigestInvalid):
        Digest("sha256", "../../etc/passwd")


def test_digests_sort_and_can_be_keys() -> None:
    """Listings sort by digest, caches and sets are keyed by it."""
    low, high = Digest("sha256", "0" * 64), Digest("sha256", "f" * 64)

    assert sorted([high, low]) == [low, high]
    assert {low: 1}[Digest.parse(str(low))] == 1
